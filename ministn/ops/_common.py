"""What several operations need: wrapping operands, and undoing a broadcast."""

from __future__ import annotations

from typing import Any

from ministn.autodiff import Tensor
from ministn.backend import Array, array_module


def as_operand(value: Any, like: Tensor) -> Tensor:
    """`value` as a Tensor: a Python number takes the dtype and device of `like`, so that it never promotes it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float)):
        dtype = like.dtype if like.dtype.kind == "f" or not isinstance(value, float) else "float32"
        return Tensor(array_module(like.data).asarray(value, dtype=dtype))
    return Tensor(value)


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum `gradient` over the axes along which an operand of `shape` was repeated: the adjoint of broadcasting."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    repeated = tuple(
        axis + extra for axis, length in enumerate(shape) if length == 1 and gradient.shape[axis + extra] > 1
    )
    return gradient.sum(axis=(*range(extra), *repeated)).reshape(shape)
