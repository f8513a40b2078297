"""What several operations need: wrapping operands, and undoing a broadcast."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import Array, array_module
from ministn.kernels._checks import check_is_tensor


def as_operand(value: Any, like: Tensor) -> Tensor:
    """`value` as a Tensor: a number takes the dtype and device of `like`, so that it never promotes it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float, np.bool_, np.integer)):
        fits = like.dtype.kind == "f" or (like.dtype.kind in "iu" and not isinstance(value, float))
        dtype = like.dtype if fits else "float32" if isinstance(value, float) else np.asarray(value).dtype
        return _number(value, dtype, like)
    if isinstance(value, np.floating):  # NumPy's own, unlike Python's, have a dtype to be kept
        return _number(value, value.dtype, like)
    return Tensor(value)


def _number(value: Any, dtype: Any, like: Tensor) -> Tensor:
    """A number where `like` is. On the GPU a kernel writes it: no array is sent for it."""
    xp = array_module(like.data)
    return Tensor(np.asarray(value, dtype) if xp is np else xp.full((), value, dtype))


def in_floating_point(x: Tensor) -> Tensor:
    """`x`, its integers or bools as float32: NumPy's mathematical functions would make them float64.

    What is no Tensor is returned as it is: the Function it goes to says so.
    """
    return x if not isinstance(x, Tensor) or x.dtype.kind == "f" else Tensor(x.data.astype("float32"))


def axis_of(name: str, x: Any, dim: Any) -> int:
    """Axis `dim` of the Tensor `x`, counted from the front."""
    check_is_tensor(name, "x", x)
    try:
        axis = operator.index(dim)
    except TypeError:
        raise TypeError(f"{name}: expected an axis to be an integer, got {dim!r}") from None
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name}: expected an axis between {-x.ndim} and {x.ndim - 1} for shape {x.shape}, got {dim}")
    return axis % x.ndim


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum `gradient` over the axes along which an operand of `shape` was repeated: the adjoint of broadcasting."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    repeated = tuple(
        axis + extra for axis, length in enumerate(shape) if length == 1 and gradient.shape[axis + extra] != 1
    )
    return gradient.sum(axis=(*range(extra), *repeated)).reshape(shape)
