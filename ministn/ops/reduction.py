"""Sums, means and extrema over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module
from ministn.kernels._checks import check_is_tensor, flag
from ministn.ops._common import axis_of, in_floating_point

Axes = int | Sequence[int] | None


class Sum(Function):
    """y = sum of x over some axes: each x receives its y's gradient."""

    def __init__(self, axes: tuple[int, ...], keepdim: bool) -> None:
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return array_module(x).asarray(x.sum(axis=self.axes, keepdims=self.keepdim))

    def backward(self, grad_output: Array) -> Array:
        kept = _with_length_one(self.shape, self.axes)
        return array_module(grad_output).broadcast_to(grad_output.reshape(kept), self.shape)


class Mean(Sum):
    """y = mean of m values x: each receives 1 / m of its y's gradient."""

    def forward(self, x: Array) -> Array:
        self.count = x.dtype.type(math.prod([x.shape[axis] for axis in self.axes]))
        return super().forward(x) / self.count

    def backward(self, grad_output: Array) -> Array:
        return super().backward(array_module(grad_output).asarray(grad_output / self.count))


class Max(Function):
    """y = the largest x over some axes; where several are largest they share the gradient evenly, as in PyTorch."""

    def __init__(self, axes: tuple[int, ...], keepdim: bool) -> None:
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x: Array) -> Array:
        largest = x.max(axis=self.axes, keepdims=True)
        self.chosen = x == largest
        return largest if self.keepdim else largest.reshape([n for a, n in enumerate(x.shape) if a not in self.axes])

    def backward(self, grad_output: Array) -> Array:
        kept = grad_output.reshape(_with_length_one(self.chosen.shape, self.axes))
        return self.chosen * (kept / self.chosen.sum(axis=self.axes, keepdims=True).astype(kept.dtype))


def sum(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The sum over axis or axes `dim` (all by default)."""
    return Sum.apply(x, axes=_axes("sum", x, dim), keepdim=flag("sum", "keepdim", keepdim))


def mean(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The mean over axis or axes `dim` (all by default)."""
    return Mean.apply(in_floating_point(x), axes=_axes("mean", x, dim), keepdim=flag("mean", "keepdim", keepdim))


def max(x: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The largest value over axis or axes `dim` (all by default). Values only: for positions, see `argmax`."""
    return Max.apply(x, axes=_axes("max", x, dim), keepdim=flag("max", "keepdim", keepdim))


def argmax(x: Tensor, dim: int | None = None) -> Tensor:
    """The index of the largest value along axis `dim` (of the flattened tensor by default); no gradient."""
    axis = None if dim is None else axis_of("argmax", x, dim)
    return Tensor(array_module(x.data).asarray(x.data.argmax(axis=axis)))


def _axes(name: str, x: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None:
        check_is_tensor(name, "x", x)
        return tuple(range(x.ndim))
    axes = tuple([axis_of(name, x, axis) for axis in (dim if isinstance(dim, (list, tuple)) else (dim,))])
    if not axes or len(set(axes)) < len(axes):  # PyTorch takes none for all, NumPy for none
        raise ValueError(f"{name}: expected at least one axis, and each once, got {dim}")
    return axes


def _with_length_one(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
