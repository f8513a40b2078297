"""The matrix product of any two tensors; a dense layer is in `ministn.kernels.linear`."""

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
