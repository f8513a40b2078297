"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ministn.backend import Array, array_module, implementation
from ministn.kernels._checks import flag
from ministn.optim.optimizer import Optimizer, Parameters, checked_number


class SGD(Optimizer):
    r"""Step against the gradient, or against a running sum of gradients.

    .. math::
        g &= \nabla L(w) + \lambda w \\
        b &\leftarrow \mu b + g \quad (b = g \text{ in the first step}) \\
        w &\leftarrow w - \eta\, b, \quad \text{or with Nesterov} \quad w \leftarrow w - \eta\, (g + \mu b)

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        See `Optimizer`.
    lr : float
        :math:`\eta`, the learning rate.
    momentum : float
        :math:`\mu`; with 0 there is no running sum.
    weight_decay : float, by keyword
        :math:`\lambda`, the strength of an L2 penalty.
    nesterov : bool, by keyword
        Whether to step by the gradient after the momentum's next move; needs a momentum.

    References
    ----------
    Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning". As in PyTorch the
    learning rate stands outside the running sum, so a change of it acts at once.
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        numbers = {name: checked_number("SGD", name, options[name]) for name in ("lr", "momentum", "weight_decay")}
        nesterov = flag("SGD", "nesterov", options["nesterov"])
        if nesterov and not numbers["momentum"]:
            raise ValueError("SGD: nesterov=True needs a momentum above 0: expected one, got 0")
        return {**numbers, "nesterov": nesterov}

    def _update(self, data: Array, grad: Array, state: dict[str, Any], options: dict[str, Any]) -> None:
        loops, momentum = implementation("ministn.ops.elementwise", data), options["momentum"]
        if options["weight_decay"]:
            grad = grad + options["weight_decay"] * data
        if momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = array_module(data).array(grad)  # a copy: it will be written to
            else:
                loops.scale_and_add_(state["momentum_buffer"], momentum, grad)
            grad = grad + momentum * state["momentum_buffer"] if options["nesterov"] else state["momentum_buffer"]
        loops.add_scaled_(data, -options["lr"], grad)
