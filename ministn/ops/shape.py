"""Moving elements without changing them, within an array or to another device; `backward` moves the gradient back."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module, check_device, device_of, implementation, to_device
from ministn.kernels._checks import check_is_tensor
from ministn.ops._common import axis_of


class Reshape(Function):
    """The same elements under another shape: a view where the memory allows it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return x.reshape(self.shape)

    def backward(self, grad_output: Array) -> Array:
        return grad_output.reshape(self.x_shape)


class Permute(Function):
    """y[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]: a view."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, grad_output: Array) -> Array:
        return grad_output.transpose(tuple(int(axis) for axis in np.argsort(self.axes)))


class GetItem(Function):
    """y = x[index]; an element picked twice receives two gradients."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x: Array) -> Array:
        self.x = x
        return x[self.index]

    def backward(self, grad_output: Array) -> Array:
        xp = array_module(grad_output)
        grad = xp.zeros_like(self.x)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts):
            grad[self.index] = grad_output  # a view: no element is there twice
        else:
            xp.add.at(grad, self.index, grad_output)
        return grad


class Concatenate(Function):
    """Arrays one after another along an axis; the gradient is cut at the same places."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:
        first, ends = arrays[0], list(itertools.accumulate(array.shape[self.axis] for array in arrays))
        before = (slice(None),) * self.axis
        self.parts = [(*before, slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
        shape = (*first.shape[: self.axis], ends[-1], *first.shape[self.axis + 1 :])
        # In the memory order of the first: batch-last images stay batch-last, so no layer above has to convert them.
        axes = sorted(range(first.ndim), key=lambda axis: -first.strides[axis])
        memory = array_module(first).empty([shape[axis] for axis in axes], np.result_type(*[a.dtype for a in arrays]))
        joined = memory.transpose(sorted(range(first.ndim), key=axes.__getitem__))
        for part, array in zip(self.parts, arrays, strict=True):
            joined[part] = array
        return joined

    def backward(self, grad_output: Array) -> tuple[Array, ...]:
        return tuple([grad_output[part] for part in self.parts])


class AppendChannels(Function):
    """Images with more channels, the same for all; the gradient of their own is a view of the first."""

    def __init__(self, channels: Array) -> None:
        self.channels = channels

    def forward(self, x: Array) -> Array:
        self.own = x.shape[1]
        return implementation("ministn.ops.elementwise", x).with_channels(x, self.channels)

    def backward(self, grad_output: Array) -> Array:
        return grad_output[:, : self.own]


class AsType(Function):
    """The same values in another floating-point dtype; the gradient goes back to the input's."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        self.x_dtype = x.dtype
        return x.astype(self.dtype)

    def backward(self, grad_output: Array) -> Array:
        return grad_output.astype(self.x_dtype)


class ToDevice(Function):
    """The same values in the memory of another device; the gradient goes back to the input's."""

    def __init__(self, device: str) -> None:
        self.device = device

    def forward(self, x: Array) -> Array:
        self.x_device = device_of(x)
        return to_device(x, self.device)

    def backward(self, grad_output: Array) -> Array:
        return to_device(grad_output, self.x_device)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """`x` under another shape with as many elements; one length may be -1."""
    shape = _flat("reshape", shape)
    if any(length < -1 for length in shape):  # which NumPy would take for -1
        raise ValueError(f"reshape: expected lengths of at least 0, and at most one -1, got {shape}")
    try:
        return Reshape.apply(x, shape=shape)
    except ValueError as error:
        raise ValueError(
            f"reshape: expected a shape of {x.numel()} elements, got {shape}: "
            f"a tensor of shape {x.shape} does not fit shape {shape}"
        ) from error


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from `start_dim` to `end_dim` (inclusive) as one."""
    check_is_tensor("flatten", "x", x)
    if x.ndim == 0:
        x = Reshape.apply(x, shape=(1,))
    start, end = axis_of("flatten", x, start_dim), axis_of("flatten", x, end_dim)
    if start > end:
        raise ValueError(f"flatten: expected start_dim before end_dim, got {start_dim} and {end_dim}")
    length = math.prod(x.shape[start : end + 1])
    return Reshape.apply(x, shape=(*x.shape[:start], length, *x.shape[end + 1 :]))


def permute(x: Tensor, *axes: Any) -> Tensor:
    """The axes of `x` in another order."""
    axes = tuple(axis_of("permute", x, axis) for axis in _flat("permute", axes))
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"permute: expected each of the {x.ndim} axes once, got {axes}")
    return Permute.apply(x, axes=axes)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Axes `dim0` and `dim1` of `x` exchanged."""
    axes = list(range(x.ndim))
    dim0, dim1 = axis_of("transpose", x, dim0), axis_of("transpose", x, dim1)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return Permute.apply(x, axes=tuple(axes))


def matrix_transpose(x: Tensor) -> Tensor:
    """``x.T``: all axes in reverse order."""
    return Permute.apply(x, axes=tuple(reversed(range(x.ndim))))


def getitem(x: Tensor, index: Any) -> Tensor:
    """``x[index]`` with any index NumPy knows; a Tensor index is used by its values."""
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(part.data if isinstance(part, Tensor) else part for part in parts)
    return GetItem.apply(x, index=parts if isinstance(index, tuple) else parts[0])


def concatenate(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`tensors` joined along axis `dim`; all other axes must agree."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(f"concatenate: expected a list or tuple of Tensors, got {type(tensors).__name__}")
    for index, tensor in enumerate(tensors):
        check_is_tensor("concatenate", f"tensors[{index}]", tensor)
    shapes = [tensor.shape for tensor in tensors]
    if not shapes:
        raise ValueError("concatenate: expected at least one tensor, got none")
    axis = axis_of("concatenate", tensors[0], dim)
    if len({(*shape[:axis], *shape[axis + 1 :], len(shape)) for shape in shapes}) > 1:
        raise ValueError(f"concatenate: expected shapes that agree outside axis {dim}, got {shapes}")
    return Concatenate.apply(*tensors, axis=axis)


def append_channels(x: Tensor, channels: Array) -> Tensor:
    """The images `x`, shape (N, C, H, W), each with the same `channels`, an array (c, H, W), behind its own."""
    if x.ndim != 4 or channels.ndim != 3 or channels.shape[1:] != x.shape[2:] or channels.dtype != x.dtype:
        raise ValueError(
            "append_channels: expected images (N, C, H, W) and channels (c, H, W) of one dtype, got "
            f"{x.shape} of {x.dtype} and {channels.shape} of {channels.dtype}"
        )
    return AppendChannels.apply(x, channels=channels)


def astype(x: Tensor, dtype: Any) -> Tensor:
    """`x` converted to `dtype`; differentiable between floating-point dtypes."""
    try:
        dtype = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"astype: expected a dtype, such as 'float32', got {dtype!r}") from None
    if dtype.kind != "f":
        return Tensor(x.data.astype(dtype))
    return AsType.apply(x, dtype=dtype)


def to(x: Tensor, device: str) -> Tensor:
    """`x` on `device`, ``"cpu"`` or ``"gpu"``: itself if it is there already, else a copy; differentiable.

    Raises
    ------
    DeviceError
        If `device` is ``"gpu"`` and there is no CuPy, or no GPU that it can use.
    """
    check_device("to", device)
    return x if x.device == device else ToDevice.apply(x, device=device)


def cpu(x: Tensor) -> Tensor:
    """``x.to("cpu")``"""
    return to(x, "cpu")


def _flat(name: str, values: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(1, 2)`` and ``f((1, 2))`` mean the same."""
    if len(values) == 1 and isinstance(values[0], (list, tuple)):
        values = tuple(values[0])
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise TypeError(f"{name}: expected integers, got {values}") from None
