"""Matrix products."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array
from ministn.ops._common import unbroadcast


class MatMul(Function):
    """C = A B over the last two axes, so dA = dC B^T and dB = A^T dC."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a @ b

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        grad_a = unbroadcast(grad_output @ self.b.swapaxes(-1, -2), self.a.shape) if self.needs_grad[0] else None
        grad_b = unbroadcast(self.a.swapaxes(-1, -2) @ grad_output, self.b.shape) if self.needs_grad[1] else None
        return grad_a, grad_b


class Linear(Function):
    """Y = X W^T + b, so dX = dY W, dW = dY^T X and db = the sum of dY over the batch."""

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        self.x, self.weight = x, weight
        y = _product_like(x, weight.T)
        y += bias
        return y

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None, Array | None]:
        grad_x = _product_like(self.x, self.weight, left=grad_output) if self.needs_grad[0] else None
        grad_weight = None
        if self.needs_grad[1]:  # a sum over one image is no sum: BLAS would take four times as long for it
            grad_weight = grad_output.T * self.x if len(self.x) == 1 else grad_output.T @ self.x
        grad_bias = grad_output.sum(axis=0) if self.needs_grad[2] else None
        return grad_x, grad_weight, grad_bias


def _product_like(x: Array, right: Array, left: Array | None = None) -> Array:
    """left @ right (left = x by default), in the memory order of `x`.

    The features of a batch-last image, flattened, have the batch as their fastest axis. Computing the transposed
    product keeps it so, and the convolution below gets its gradient in the layout it works in.
    """
    left = x if left is None else left
    batch_last = x.strides[0] < x.strides[1]
    return (right.T @ left.T).T if batch_last else left @ right


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of the last two axes, broadcasting over the others.

    Parameters
    ----------
    a : Tensor, shape (..., n, k)
    b : Tensor, shape (..., k, m)

    Returns
    -------
    Tensor, shape (..., n, m)
    """
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: expected shapes (..., n, k) and (..., k, m), got {a.shape} and {b.shape}")
    return MatMul.apply(a, b)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A dense layer: ``input @ weight.T + bias``.

    Parameters
    ----------
    input : Tensor, shape (N, in_features)
    weight : Tensor, shape (out_features, in_features)
    bias : Tensor, shape (out_features,), optional

    Returns
    -------
    Tensor, shape (N, out_features)
    """
    if input.ndim != 2 or weight.ndim != 2 or input.shape[1] != weight.shape[1]:
        raise ValueError(
            "linear: expected input (N, in_features) and weight (out_features, in_features) "
            f"with equal in_features, got {input.shape} and {weight.shape}"
        )
    if bias is None:
        return MatMul.apply(input, weight.T)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: expected a bias of shape {weight.shape[:1]} (out_features), got {bias.shape}")
    return Linear.apply(input, weight, bias)
