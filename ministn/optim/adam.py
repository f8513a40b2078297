"""Adam, and AdamW, which keeps the weight decay out of the moments."""

from __future__ import annotations

import math
from typing import Any

from ministn.backend import Array, array_module, implementation
from ministn.optim.optimizer import Optimizer, Parameters, checked_number


class Adam(Optimizer):
    r"""Steps of about the learning rate in every coordinate, whatever the scale of its gradient.

    .. math::
        g &= \nabla L(w) + \lambda w \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    m and v start at 0; in step t their weights sum to :math:`1 - \beta^t`, by which the last line divides.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        See `Optimizer`.
    lr : float
        :math:`\eta`, the learning rate.
    betas : (float, float)
        :math:`\beta_1, \beta_2`: how much of the running means of g and g^2 a step keeps.
    eps : float
        :math:`\epsilon`, in the units of the gradient.
    weight_decay : float
        :math:`\lambda`, the strength of an L2 penalty.

    References
    ----------
    Kingma and Ba (2015), arXiv:1412.6980, algorithm 1.
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {
            name: checked_number(self._name, name, options[name]) for name in ("lr", "eps", "weight_decay")
        }
        betas = options["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"{self._name}: expected betas to be two numbers, got {betas!r}")
        checked["betas"] = tuple(checked_number(self._name, f"betas[{i}]", beta, 1) for i, beta in enumerate(betas))
        return checked

    def _update(self, data: Array, grad: Array, state: dict[str, Any], options: dict[str, Any]) -> None:
        xp, loops = array_module(data), implementation("ministn.ops.elementwise", data)
        if not state:
            state.update(step=0, exp_avg=xp.zeros_like(data), exp_avg_sq=xp.zeros_like(data))
        state["step"] += 1
        beta1, beta2 = options["betas"]
        grad, decay = self._decayed(data, grad, options)
        rate = options["lr"] / (1 - beta1 ** state["step"])
        scale = math.sqrt(1 - beta2 ** state["step"])
        moments = state["exp_avg"], state["exp_avg_sq"]
        loops.adam_(data, *moments, grad, beta1, beta2, rate, scale, options["eps"], decay)

    def _decayed(self, data: Array, grad: Array, options: dict[str, Any]) -> tuple[Array, float]:
        """The gradient with that of the penalty added, and what the weights are multiplied with."""
        return grad + options["weight_decay"] * data if options["weight_decay"] else grad, 1.0


class AdamW(Adam):
    r"""Adam with weight decay apart from the gradient: :math:`w \leftarrow (1 - \eta \lambda) w` before each step.

    In `Adam` the penalty's gradient is divided by :math:`\sqrt v` with the rest, so weights with large gradients are
    hardly decayed; here all decay alike.

    Parameters
    ----------
    params, lr, betas, eps
        As in `Adam`.
    weight_decay : float
        :math:`\lambda`.

    References
    ----------
    Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def _decayed(self, data: Array, grad: Array, options: dict[str, Any]) -> tuple[Array, float]:
        """The gradient as it is; the weights are shrunk instead."""
        return grad, 1 - options["lr"] * options["weight_decay"]
