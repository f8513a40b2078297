"""The differentiable function `soft_threshold`."""

from ministn import Function, Tensor
from ministn.backend import implementation


class SoftThreshold(Function):
    def forward(self, x, threshold):
        self.x, self.threshold = x, threshold
        return implementation(__package__, x).forward(x, threshold)

    def backward(self, grad_output):
        return implementation(__package__, grad_output).backward(grad_output, self.x, self.threshold)


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    r"""Move every value towards 0 by its channel's threshold, and no further.

    .. math:: y = \mathrm{sign}(x) \max(|x| - \lambda_c, 0)

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
    threshold : Tensor, shape (C,)
        lambda, not negative.

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Differentiable with respect to both.

    Raises
    ------
    ValueError
        If the shapes do not agree, or a threshold is negative.

    Notes
    -----
    Convention: on the kinks, \|x\| = lambda, both slopes are 0.
    """
    if x.ndim != 4 or threshold.shape != (x.shape[1],):
        raise ValueError(
            "soft_threshold: expected x of shape (N, C, H, W) and a threshold of shape (C,), "
            f"got {x.shape} and {threshold.shape}"
        )
    if (threshold.data < 0).any():
        raise ValueError(f"soft_threshold: expected no negative threshold, got {threshold.data.min()}")
    return SoftThreshold.apply(x, threshold)
