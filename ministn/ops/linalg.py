"""The matrix product, and the inverse of 3 x 3 matrices; a dense layer is in `ministn.kernels.linear`."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module
from ministn.kernels._checks import check_is_tensor
from ministn.kernels._cuda import must_be_recordable
from ministn.ops._common import in_floating_point, unbroadcast


class MatMul(Function):
    """C = A B over the last two axes, so dA = dC B^T and dB = A^T dC."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return _product(a, b)

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        a, b = self.a, self.b
        grad_a = unbroadcast(_product(grad_output, b.swapaxes(-1, -2)), a.shape) if self.needs_grad[0] else None
        grad_b = unbroadcast(_product(a.swapaxes(-1, -2), grad_output), b.shape) if self.needs_grad[1] else None
        return grad_a, grad_b


class Inverse(Function):
    """B = A^-1 of 3 x 3 matrices: the adjugate over the determinant. From A B = 1 follows dA = -B^T dB B^T."""

    def forward(self, a: Array) -> Array:
        xp = array_module(a)
        around = xp.concatenate([a, a], axis=-1)
        around = xp.concatenate([around, around], axis=-2)  # so that rows and columns go on around the edges

        def moved(rows: int, columns: int) -> Array:
            return around[..., rows : rows + 3, columns : columns + 3]

        cofactors = moved(1, 1) * moved(2, 2) - moved(1, 2) * moved(2, 1)  # going around has given them their signs
        determinant = (a[..., :1, :] * cofactors[..., :1, :]).sum(axis=-1, keepdims=True)
        self.b = cofactors.swapaxes(-1, -2) / determinant
        return self.b

    def backward(self, grad_output: Array) -> Array:
        transposed = self.b.swapaxes(-1, -2)
        return -_product(_product(transposed, grad_output), transposed)


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
    check_is_tensor("matmul", "a", a)
    check_is_tensor("matmul", "b", b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: expected shapes (..., n, k) and (..., k, m), got {a.shape} and {b.shape}")
    try:
        return MatMul.apply(a, b)
    except ValueError as error:
        raise ValueError(f"matmul: expected leading axes that broadcast, got {a.shape} and {b.shape}") from error


def inverse(a: Tensor) -> Tensor:
    """The inverse of 3 x 3 matrices, as those of plane transformations are. A singular one gives infinities or NaN.

    Parameters
    ----------
    a : Tensor, shape (..., 3, 3)

    Returns
    -------
    Tensor, shape (..., 3, 3)
    """
    check_is_tensor("inverse", "a", a)
    if a.shape[-2:] != (3, 3):
        raise ValueError(f"inverse: expected a shape (..., 3, 3), got {a.shape}")
    return Inverse.apply(in_floating_point(a))


def _product(a: Array, b: Array) -> Array:
    """A B; in steps that can be recorded without cuBLAS: product by product, which suits small matrices only."""
    return (a[..., None] * b[..., None, :, :]).sum(axis=-2) if must_be_recordable() else a @ b
