"""A stand-in for CuPy, as far as ministn uses it: NumPy computes what CuPy would, an emulator runs the CUDA kernels.

It is no GPU and says nothing about speed. It is there to be stricter than CuPy: what CuPy refuses is refused, and so is
what CuPy silently gets wrong, such as a kernel's argument of another type than declared. What it offers is checked
against the real package by tests/gpu/test_stand_in.py; any other name is an AttributeError.
"""

from __future__ import annotations

import builtins
import sys
from typing import Any, NoReturn

import numpy as np

from cupy import _stand_in
from cupy import cuda as cuda
from cupy._array import _operand, _view, ndarray
from cupy._array import add_at as _add_at
from cupy._array import compute as _compute
from cupy._array import wrap as _wrap
from cupy._raw import RawKernel as RawKernel
from cupy._raw import RawModule as RawModule

__version__ = "14.2.0"  # of the CuPy it stands in for

for _name in ("bool_", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
    globals()[_name] = getattr(np, _name)
for _name in ("dtype", "inf", "nan", "newaxis", "pi", "result_type"):
    globals()[_name] = getattr(np, _name)
del _name


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(f"cupy.{name} is not in the stand-in for CuPy (tests/gpu/stand_in)", name=name)


class ufunc:
    """A function of one element, or of two; NumPy's of the same name."""

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> ndarray:
        if len(args) != self.nin:
            raise TypeError(f"Wrong number of arguments for {self.__name__}: {len(args)}; stand-in: pass out by name")
        if not builtins.any(isinstance(value, ndarray) for value in args):
            raise TypeError(f"stand-in: {self.__name__} of no array on the device: use NumPy")
        keywords = {} if dtype is None else {"dtype": dtype}
        return _compute(self._function, *args, out=out, casting=casting, **keywords)

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self._function is not np.add:
            raise NotImplementedError(f"stand-in: {self.__name__}.at")
        _add_at(a, indices, b)


def _ufunc(function: np.ufunc) -> ufunc:
    this = ufunc.__new__(ufunc)
    this._function, this.nin, this.__name__ = function, function.nin, function.__name__
    return this


absolute = abs = _ufunc(np.absolute)
add = _ufunc(np.add)
arctan2 = _ufunc(np.arctan2)
bitwise_and = _ufunc(np.bitwise_and)
bitwise_or = _ufunc(np.bitwise_or)
bitwise_xor = _ufunc(np.bitwise_xor)
ceil = _ufunc(np.ceil)
cos = _ufunc(np.cos)
true_divide = divide = _ufunc(np.true_divide)
equal = _ufunc(np.equal)
exp = _ufunc(np.exp)
expm1 = _ufunc(np.expm1)
floor = _ufunc(np.floor)
floor_divide = _ufunc(np.floor_divide)
greater = _ufunc(np.greater)
greater_equal = _ufunc(np.greater_equal)
invert = _ufunc(np.invert)
isfinite = _ufunc(np.isfinite)
isinf = _ufunc(np.isinf)
isnan = _ufunc(np.isnan)
left_shift = _ufunc(np.left_shift)
less = _ufunc(np.less)
less_equal = _ufunc(np.less_equal)
log = _ufunc(np.log)
log1p = _ufunc(np.log1p)
logical_and = _ufunc(np.logical_and)
logical_not = _ufunc(np.logical_not)
logical_or = _ufunc(np.logical_or)
maximum = _ufunc(np.maximum)
minimum = _ufunc(np.minimum)
multiply = _ufunc(np.multiply)
negative = _ufunc(np.negative)
not_equal = _ufunc(np.not_equal)
power = _ufunc(np.power)
reciprocal = _ufunc(np.reciprocal)
remainder = _ufunc(np.remainder)
right_shift = _ufunc(np.right_shift)
rint = _ufunc(np.rint)
sign = _ufunc(np.sign)
sin = _ufunc(np.sin)
sqrt = _ufunc(np.sqrt)
square = _ufunc(np.square)
subtract = _ufunc(np.subtract)
tanh = _ufunc(np.tanh)

# --- new arrays -------------------------------------------------------------------------------------------------------


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    array = empty(shape, np.asarray(_operand(fill_value)).dtype if dtype is None else dtype, order)
    array.fill(fill_value)
    return array


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(prototype: ndarray, dtype: Any = None, order: str = "K") -> ndarray:
    values = _device_array("empty_like", prototype)._values
    return _wrap(_stand_in.poisoned(np.empty_like(values, dtype, order)))


def full_like(a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K") -> ndarray:
    array = empty_like(a, dtype, order)
    array.fill(fill_value)
    return array


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K") -> ndarray:
    return full_like(a, 0, dtype, order)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K") -> ndarray:
    return full_like(a, 1, dtype, order)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    start, stop = (0, start) if stop is None else (start, stop)
    return _compute(lambda: np.arange(start, stop, step, dtype))


def linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, *, dtype: Any = None) -> ndarray:
    return _compute(lambda: np.linspace(start, stop, num, endpoint, dtype=dtype))


def eye(N: int, M: Any = None, k: int = 0, dtype: Any = float) -> ndarray:
    return _compute(lambda: np.eye(N, M, k, dtype))


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> ndarray:
    if isinstance(obj, ndarray):
        if not copy and (dtype is None or obj.dtype == dtype):
            return obj
        return obj.astype(obj.dtype if dtype is None else dtype, order)
    if isinstance(obj, (list, tuple)) and builtins.any(isinstance(value, ndarray) for value in obj):
        raise NotImplementedError("stand-in: an array from a list of arrays on the device; use cupy.stack")
    values = np.array(obj, dtype, order="C")
    _stand_in.copied("h2d", "cupy.array of a NumPy array, list or number")
    if isinstance(obj, np.ndarray) and obj.flags.f_contiguous and not obj.flags.c_contiguous and order in "KAF":
        values = np.asfortranarray(values)  # any other order of the axes in memory is lost
    return _wrap(values)


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    return array(a, dtype, False, "K" if order is None else order)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        return array(a, dtype, order="C")
    if a.flags.c_contiguous and (dtype is None or a.dtype == dtype):
        return a if a.ndim else a.reshape(1)
    return a.astype(a.dtype if dtype is None else dtype, "C")


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> Any:
    return sys.modules["cupy"] if builtins.any(isinstance(value, ndarray) for value in args) else np


# --- reductions -------------------------------------------------------------------------------------------------------


def all(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("all", a).all(axis, out, keepdims)


def any(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("any", a).any(axis, out, keepdims)


def argmax(a: ndarray, axis: Any = None, *, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("argmax", a).argmax(axis, out, keepdims=keepdims)


def argmin(a: ndarray, axis: Any = None, *, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("argmin", a).argmin(axis, out, keepdims=keepdims)


def max(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("max", a).max(axis, out, keepdims)


def mean(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("mean", a).mean(axis, dtype, out, keepdims)


def min(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("min", a).min(axis, out, keepdims)


def prod(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return _device_array("prod", a).prod(axis, dtype, out)


def sum(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _device_array("sum", a).sum(axis, dtype, out, keepdims)


def cumsum(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return _compute(np.cumsum, _device_array("cumsum", a), axis=axis, dtype=dtype, out=out)


# --- the rest ---------------------------------------------------------------------------------------------------------


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    return _view(_device_array("broadcast_to", array), np.broadcast_to(array._values, shape))


def clip(a: ndarray, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    return _device_array("clip", a).clip(a_min, a_max, out)


def concatenate(tup: Any, axis: int = 0, out: Any = None) -> ndarray:
    return _compute(lambda *arrays: np.concatenate(arrays, axis), *tup, out=out)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind") -> None:
    _device_array("copyto", dst)
    if isinstance(src, ndarray) and not np.can_cast(src.dtype, dst.dtype, casting):
        raise TypeError(f"Cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode")
    dst[...] = src


def dot(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    return _device_array("dot", a).dot(b, out)


def expand_dims(a: ndarray, axis: Any) -> ndarray:
    return _view(_device_array("expand_dims", a), np.expand_dims(a._values, axis))


def flip(a: ndarray, axis: Any = None) -> ndarray:
    return _view(_device_array("flip", a), np.flip(a._values, axis))


def matmul(*args: ndarray, out: Any = None) -> ndarray:
    return _compute(np.matmul, *args, out=out)


def moveaxis(a: ndarray, source: Any, destination: Any) -> ndarray:
    return _view(_device_array("moveaxis", a), np.moveaxis(a._values, source, destination))


def ravel(a: ndarray, order: str = "C") -> ndarray:
    return _device_array("ravel", a).ravel(order)


def repeat(a: ndarray, repeats: int, axis: Any = None) -> ndarray:
    return _device_array("repeat", a).repeat(repeats, axis)


def reshape(a: ndarray, newshape: Any, order: str = "C") -> ndarray:
    return _device_array("reshape", a).reshape(newshape, order=order)


def sort(a: ndarray, axis: int = -1, kind: Any = None) -> ndarray:
    if kind not in (None, "stable"):
        raise NotImplementedError(f"kind can only be None or 'stable', got {kind!r}")
    return _compute(np.sort, _device_array("sort", a), axis=axis)


def squeeze(a: ndarray, axis: Any = None) -> ndarray:
    return _device_array("squeeze", a).squeeze(axis)


def stack(tup: Any, axis: int = 0, out: Any = None) -> ndarray:
    return _compute(lambda *arrays: np.stack(arrays, axis), *tup, out=out)


def swapaxes(a: ndarray, axis1: int, axis2: int) -> ndarray:
    return _device_array("swapaxes", a).swapaxes(axis1, axis2)


def take(a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    return _device_array("take", a).take(indices, axis, out)


def transpose(a: ndarray, axes: Any = None) -> ndarray:
    return _device_array("transpose", a).transpose(axes)


def where(condition: ndarray, x: Any, y: Any) -> ndarray:
    return _compute(np.where, condition, x, y)


def _device_array(name: str, value: Any) -> ndarray:
    if not isinstance(value, ndarray):
        raise TypeError(f"cupy.{name}: expected an array on the device, got {type(value).__name__}")
    return value
