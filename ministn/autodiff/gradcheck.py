"""gradcheck: compare a backward pass with finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ministn.autodiff.function import no_grad
from ministn.autodiff.tensor import Tensor
from ministn.backend import to_device


class GradcheckError(AssertionError):
    """A gradient disagrees with finite differences."""


def gradcheck(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    directions: int = 4,
    seed: int = 0,
) -> bool:
    r"""Check the gradients of `function` along random directions.

    For each input, a random direction :math:`v` and random output weights :math:`w`,

    .. math:: \langle w, \frac{f(x + h v) - f(x - h v)}{2h} \rangle = \langle J^T w, v \rangle

    must hold, with J the matrix of the derivatives of f. The left side is a central difference, wrong by O(h^2) and by
    rounding / h; the right side is what `backward` returns for the output gradient :math:`w`. Unlike a check of J entry
    by entry, its cost does not grow with the size of the input, and a random direction overlooks no entry of J, only
    errors that are below the tolerance as a whole.

    Parameters
    ----------
    function : callable
        Takes the tensors of `inputs`, returns one Tensor. It must be deterministic, and smooth within `step` of them.
    inputs : sequence of Tensor
        float64 tensors, on either device; those with ``requires_grad`` are checked.
    step : float
        h, in the units of the inputs: 1e-5 balances truncation and rounding for values around 1.
    tolerance : float
        Largest accepted ``|left - right| / max(|left|, |right|, s)``, where s = ``|J^T w| |v| / sqrt(size)`` is the
        typical magnitude of the right side: a direction that happens to give nearly zero is not held against it.
    directions : int
        How many pairs (v, w) to try for each input.
    seed : int
        Of the directions.

    Returns
    -------
    bool
        True, so that it can be asserted.

    Raises
    ------
    GradcheckError
        If a gradient is wrong; the message names the input and both numbers.
    TypeError
        If an input is not float64: in float32, rounding hides errors of a percent.
    ValueError
        If no input requires a gradient.
    """
    for index, tensor in enumerate(inputs):
        if tensor.dtype != np.float64:
            raise TypeError(f"gradcheck: expected float64 inputs, got {tensor.dtype} for input {index}")
    checked = [index for index, tensor in enumerate(inputs) if tensor.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient")
    # Not default_rng(seed) itself: it may have made the inputs, and directions equal to them are no random ones.
    random = np.random.default_rng((seed, 1))

    def value_at(index: int, data: np.ndarray) -> np.ndarray:
        moved = [Tensor(to_device(np.asarray(data), t.device) if i == index else t.data) for i, t in enumerate(inputs)]
        with no_grad():
            return np.array(to_device(function(*moved).data, "cpu"))

    for trial in range(directions):
        leaves = [Tensor(tensor.data.copy("K"), tensor.requires_grad) for tensor in inputs]
        output = function(*leaves)
        w = random.standard_normal(output.shape)
        output.backward(to_device(w, output.device))
        for index in checked:
            x, gradient = to_device(inputs[index].data, "cpu"), leaves[index].grad
            v = random.standard_normal(x.shape)
            difference = (value_at(index, x + step * v) - value_at(index, x - step * v)) / (2 * step)
            numerical = float(np.sum(w * difference))
            jtw = np.zeros_like(x) if gradient is None else gradient.numpy()
            analytic = float(np.sum(jtw * v))
            typical = float(np.linalg.norm(jtw) * np.linalg.norm(v)) / max(1.0, np.sqrt(x.size))
            scale = max(abs(numerical), abs(analytic), typical)
            if not abs(numerical - analytic) <= tolerance * scale:  # "not <=" also catches NaN
                raise GradcheckError(
                    f"gradcheck: input {index} of shape {x.shape}, direction {trial}: backward says {analytic:.10g}, "
                    f"finite differences say {numerical:.10g} "
                    f"(relative error {abs(numerical - analytic) / scale if scale else np.inf:.2g}, "
                    f"tolerance {tolerance:g})"
                )
    return True
