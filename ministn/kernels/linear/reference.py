"""The dense layer as the library's own matrix products: NumPy's, which BLAS computes, or CuPy's."""

from __future__ import annotations

from ministn.backend import Array


def forward(x: Array, weight: Array, bias: Array | None) -> Array:
    """Y = X W^T + b.

    Parameters
    ----------
    x : array, shape (N, I)
    weight : array, shape (O, I)
    bias : array, shape (O,), or None

    Returns
    -------
    array, shape (N, O)
        In the memory order of `x`.
    """
    y = _product_like(x, x, weight.T)
    if bias is not None:
        y += bias
    return y


def backward(
    grad_output: Array, x: Array, weight: Array, needs_grad: tuple[bool, ...] = (True, True, True)
) -> tuple[Array | None, Array | None, Array | None]:
    """dX = dY W, dW = dY^T X, and db = the sum of dY over the batch; None for those that are not needed."""
    grad_x = _product_like(x, grad_output, weight) if needs_grad[0] else None
    grad_weight = None
    if needs_grad[1]:  # a sum over one image is no sum: BLAS would take four times as long for it
        grad_weight = grad_output.T * x if len(x) == 1 else grad_output.T @ x
    return grad_x, grad_weight, grad_output.sum(axis=0) if any(needs_grad[2:]) else None


def _product_like(x: Array, left: Array, right: Array) -> Array:
    """left @ right, in the memory order of `x`.

    The features of batch-last images, flattened, have the batch as their fastest axis. Computing the transposed
    product keeps it so, and the convolution below gets its gradient in the layout it works in.
    """
    return (right.T @ left.T).T if x.strides[0] < x.strides[1] else left @ right
