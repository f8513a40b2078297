"""Arrays on the "device", and how results are computed from them."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cupy import _stand_in

_MAY_BE_SCATTERED = frozenset(map(np.dtype, ("int32", "uint32", "uint64", "float16", "float32", "float64")))


class Flags:
    """How an array lies in memory."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray:
    """An array in the memory of the "device": only `get` and what else copies it shows it to NumPy."""

    __slots__ = ("__weakref__", "_memory", "_values")
    __array_priority__ = 100  # numpy.float32(2) * array is the array's affair

    def __init__(self, shape: Any, dtype: Any = float, *, order: str = "C") -> None:
        other = wrap(_stand_in.poisoned(np.empty(shape, _checked_dtype(dtype), order)))
        self._values, self._memory = other._values, other._memory

    # --- to and from the host: only when asked for ------------------------------------------------------------------

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self, stream: Any = None, order: str = "C", out: Any = None) -> np.ndarray:
        _copied_to_host("ndarray.get")
        if out is None:
            return np.array(self._values, order=order)
        if not isinstance(out, np.ndarray) or out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError(f"expected out to be a NumPy array like this one, {self.dtype} {self.shape}")
        out[...] = self._values
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be set to cupy.ndarray, got {type(arr).__name__}")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        _stand_in.copied("h2d", "ndarray.set")
        self._values[...] = arr

    def item(self) -> Any:
        _copied_to_host("ndarray.item")
        return self._values.item()

    def tolist(self) -> Any:
        _copied_to_host("ndarray.tolist")
        return self._values.tolist()

    def __bool__(self) -> bool:
        _copied_to_host("bool() of an array")
        return bool(self._values)

    def __int__(self) -> int:
        _copied_to_host("int() of an array")
        return int(self._values)

    def __float__(self) -> float:
        _copied_to_host("float() of an array")
        return float(self._values)

    def __repr__(self) -> str:
        _copied_to_host("printing an array")
        return repr(self._values)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        raise TypeError("stand-in: pickling an array of the device would copy it to the host")

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    # --- what it is -------------------------------------------------------------------------------------------------

    shape = property(lambda self: self._values.shape)
    dtype = property(lambda self: self._values.dtype)
    ndim = property(lambda self: self._values.ndim)
    size = property(lambda self: self._values.size)
    nbytes = property(lambda self: self._values.nbytes)
    itemsize = property(lambda self: self._values.itemsize)
    strides = property(lambda self: self._values.strides)
    flags = property(lambda self: Flags(self._values.flags))
    T = property(lambda self: _view(self, self._values.T))

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # --- elements ---------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> ndarray:
        index = index if isinstance(index, tuple) else (index,)
        if not any(map(_is_array_index, index)):
            return _view(self, self._values[_with_ellipsis(index)])
        _wait_for_masks(index)
        return compute(_picked, self, *_index_operands(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        index = index if isinstance(index, tuple) else (index,)
        if any(map(_is_array_index, index)):
            write_through(_assign, self, index, value)
        else:
            target, source = self._values[_with_ellipsis(index)], _operand(value)
            _stand_in.submit(lambda: np.copyto(target, source, casting="unsafe"), _memories(self, value))

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        """NumPy's function, called with an array of the device, is the device's function of that name."""
        if method != "__call__":
            raise TypeError(f"stand-in: numpy.{ufunc.__name__}.{method} of an array on the device")
        (keywords["out"],) = keywords.get("out", (None,))
        return getattr(sys.modules["cupy"], ufunc.__name__)(*inputs, **keywords)

    def __array_function__(self, function: Any, types: Any, args: Any, keywords: Any) -> Any:
        return getattr(sys.modules["cupy"], function.__name__)(*args, **keywords)

    # --- methods ----------------------------------------------------------------------------------------------------

    def all(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.all, self, axis=axis, keepdims=keepdims, out=out)

    def any(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.any, self, axis=axis, keepdims=keepdims, out=out)

    def argmax(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> ndarray:
        return compute(np.argmax, self, axis=axis, keepdims=keepdims, out=out)

    def argmin(self, axis: Any = None, out: Any = None, *, keepdims: bool = False) -> ndarray:
        return compute(np.argmin, self, axis=axis, keepdims=keepdims, out=out)

    def astype(self, dtype: Any, order: str = "K", *, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return compute(np.ndarray.astype, self, dtype=_checked_dtype(dtype), order=order, keep_order=True)

    def clip(self, min: Any = None, max: Any = None, out: Any = None) -> ndarray:
        return compute(np.clip, self, min, max, out=out)

    def copy(self, order: str = "C") -> ndarray:
        return compute(np.array, self, order=order, keep_order=True)

    def dot(self, b: ndarray, out: Any = None) -> ndarray:
        return compute(np.dot, self, b, out=out)

    def fill(self, value: Any) -> None:
        self[...] = value

    def flatten(self, order: str = "C") -> ndarray:
        return compute(np.ndarray.flatten, self, order=order)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.max, self, axis=axis, keepdims=keepdims, out=out)

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.mean, self, axis=axis, dtype=dtype, keepdims=keepdims, out=out)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.min, self, axis=axis, keepdims=keepdims, out=out)

    def prod(self, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
        return compute(np.prod, self, axis=axis, dtype=dtype, out=out)

    def ravel(self, order: str = "C") -> ndarray:
        return _view_or_copy(self, lambda values: values.ravel(order))

    def repeat(self, repeats: int, axis: Any = None) -> ndarray:
        return compute(np.repeat, self, operator.index(repeats), axis=axis)

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return _view_or_copy(self, lambda values: values.reshape(*shape, order=order))

    def squeeze(self, axis: Any = None) -> ndarray:
        return _view(self, self._values.squeeze(axis))

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(np.sum, self, axis=axis, dtype=dtype, keepdims=keepdims, out=out)

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return _view(self, self._values.swapaxes(axis1, axis2))

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
        return compute(lambda values, where: np.take(values, where, axis, mode="wrap"), self, indices, out=out)

    def transpose(self, *axes: Any) -> ndarray:
        return _view(self, self._values.transpose(*axes))

    def var(
        self, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False
    ) -> ndarray:
        return compute(np.var, self, axis=axis, dtype=dtype, ddof=ddof, keepdims=keepdims, out=out)

    def view(self, dtype: Any = None) -> ndarray:
        return _view(self, self._values.view() if dtype is None else self._values.view(_checked_dtype(dtype)))


def _operators() -> None:
    """``x + y``, ``2 + x`` and ``x += y``, and so on, each NumPy's operation on the values."""

    def unary(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self: compute(function, self)

    def binary(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: _unless_foreign(other, lambda: compute(function, self, other))

    def reflected(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: _unless_foreign(other, lambda: compute(function, other, self))

    def in_place(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: _unless_foreign(other, lambda: compute(function, self, other, out=self))

    arithmetic = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "truediv": np.true_divide,
        "floordiv": np.floor_divide,
        "mod": np.remainder,
        "pow": np.power,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "lshift": np.left_shift,
        "rshift": np.right_shift,
    }
    for name, function in arithmetic.items():
        setattr(ndarray, f"__{name}__", binary(function))
        setattr(ndarray, f"__r{name}__", reflected(function))
        setattr(ndarray, f"__i{name}__", in_place(function))
    comparisons = {
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
        "matmul": np.matmul,
    }
    for name, function in comparisons.items():
        setattr(ndarray, f"__{name}__", binary(function))
    for name, function in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
        setattr(ndarray, f"__{name}__", unary(function))


_operators()


def compute(
    function: Callable[..., Any], *operands: Any, out: ndarray | None = None, keep_order: bool = False, **keywords: Any
) -> ndarray:
    """``function(*operands, **keywords)`` of the values, as a new array of the device or in `out`.

    New arrays are C-contiguous whatever their operands are, as CuPy's are; `keep_order` leaves it to the function.
    """
    if function is np.matmul and _stand_in.capture is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    call = functools.partial(function, *[_operand(value) for value in operands], **keywords)
    with np.errstate(all="ignore"):
        values = np.asarray(call(), order="K" if keep_order else "C")
    if out is None and _stand_in.capture is None:
        return wrap(values)
    if out is None:  # the result comes with the launch of the graph
        out = wrap(_stand_in.poisoned(values))
    elif not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    elif out.shape != values.shape:
        raise ValueError(f"Out shape is mismatched: {out.shape}, not {values.shape}")
    elif not np.can_cast(values.dtype, out.dtype, "same_kind"):
        raise TypeError(f"Cannot cast output from {values.dtype} to {out.dtype} with casting rule 'same_kind'")
    target = out._values
    if _stand_in.capture is None:
        np.copyto(target, values, casting="same_kind")
    else:
        _stand_in.submit(lambda: np.copyto(target, call(), casting="same_kind"), _memories(out, *operands))
    return out


def wrap(values: np.ndarray) -> ndarray:
    """`values` copied to memory of the device, with the axes in the same order in it."""
    array = ndarray.__new__(ndarray)
    array._memory = _stand_in.Memory()
    axes = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
    memory = array._memory.allocate(values.size * _checked_dtype(values.dtype).itemsize)
    in_order = memory.view(values.dtype).reshape([values.shape[axis] for axis in axes])
    array._values = in_order.transpose(np.argsort(axes)) if axes else in_order
    array._values[...] = values
    return array


def write_through(write: Callable[..., None], array: ndarray, index: tuple[Any, ...], value: Any) -> None:
    """``write(values, index, value)`` at an index with arrays in it."""
    target, source = array._values, _operand(value)
    if not isinstance(value, ndarray):
        _stand_in.copied("h2d", "a number, written where an array of indices says,")
    _wait_for_masks(index)
    make_index, *arrays = _index_operands(index)
    parts = [array._values for array in arrays]
    _stand_in.submit(lambda: write(target, make_index(target, *parts), source), _memories(array, value, *arrays))


def add_at(array: ndarray, index: Any, value: Any) -> None:
    """``array[index] += value``, in which an element that is named twice receives two values."""
    index = index if isinstance(index, tuple) else (index,)
    if not any(map(_is_array_index, index)):
        part = array[index]
        part += value
        return
    if array.dtype not in _MAY_BE_SCATTERED:
        raise TypeError(f"cupy.add.at only supports {sorted(map(str, _MAY_BE_SCATTERED))}, got {array.dtype}")
    write_through(np.add.at, array, index, value)


def _view(array: ndarray, values: np.ndarray) -> ndarray:
    view = ndarray.__new__(ndarray)
    view._values, view._memory = values, array._memory
    return view


def _view_or_copy(array: ndarray, change: Callable[[np.ndarray], np.ndarray]) -> ndarray:
    """What reshaping gives: a view where the memory allows it."""
    values = change(array._values)
    return _view(array, values) if np.may_share_memory(values, array._values) else compute(change, array)


def _copied_to_host(what: str) -> None:
    _stand_in.wait(what)
    _stand_in.copied("d2h", what)


def _checked_dtype(dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.kind not in "biufc" or dtype.char in "gG":  # neither objects, texts nor long doubles
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


def _operand(value: Any) -> Any:
    """What NumPy computes with in place of `value`."""
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, (bool, int, float, complex, np.generic)) or value is None or callable(value):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _unless_foreign(other: Any, result: Callable[[], Any]) -> Any:
    """`result()`, unless `other` is of a class that wants to handle the operation itself, such as a Tensor."""
    if not isinstance(other, (ndarray, np.ndarray)) and getattr(type(other), "__array_ufunc__", True) is None:
        return NotImplemented
    return result()


def _memories(*operands: Any) -> list[_stand_in.Memory]:
    return [value._memory for value in operands if isinstance(value, ndarray)]


# --- indices ----------------------------------------------------------------------------------------------------------


def _is_array_index(part: Any) -> bool:
    return isinstance(part, (ndarray, np.ndarray, list, bool, np.bool_))


def _is_mask(part: Any) -> bool:
    return _is_array_index(part) and (part.dtype if hasattr(part, "dtype") else np.asarray(part).dtype).kind == "b"


def _wait_for_masks(index: tuple[Any, ...]) -> None:
    """CuPy asks the device how many elements a mask has chosen."""
    if any(_is_mask(part) for part in index):
        _stand_in.wait("a mask as an index")


def _with_ellipsis(index: tuple[Any, ...]) -> tuple[Any, ...]:
    """With it NumPy answers a view even where a single element is picked."""
    return index if any(part is Ellipsis for part in index) else (*index, ...)


def _index_operands(index: tuple[Any, ...]) -> list[Any]:
    """A function that puts the index together from the values of its arrays, and these arrays.

    The arrays may be results that a graph computes anew in each launch: the index is made when the work is done.
    """
    arrays = [part for part in index if _is_array_index(part)]
    for position, part in enumerate(arrays):
        if not isinstance(part, ndarray):
            _stand_in.copied("h2d", "an index made of a list or a NumPy array")
            values = np.asarray(part)
            arrays[position] = wrap(values.astype(np.int64) if values.size == 0 else values)
    used = sum(part.ndim if _is_mask(part) else 1 for part in index if part is not None and part is not Ellipsis)

    def make(values: np.ndarray, *of_arrays: np.ndarray) -> tuple[Any, ...]:
        result, axis, remaining = [], 0, iter(of_arrays)
        for part in index:
            if _is_array_index(part):
                part = next(remaining)
            if part is Ellipsis:
                axis += values.ndim - used
            elif isinstance(part, np.ndarray) and part.dtype.kind == "b":
                axis += part.ndim
            elif part is not None:
                if isinstance(part, np.ndarray) and values.shape[axis]:
                    part = part % values.shape[axis]  # CuPy does not look whether indices are in range: they wrap
                axis += 1
            result.append(part)
        return tuple(result)

    return [make, *arrays]


def _picked(values: np.ndarray, make_index: Callable[..., tuple[Any, ...]], *parts: np.ndarray) -> np.ndarray:
    return values[make_index(values, *parts)]


def _assign(target: np.ndarray, index: tuple[Any, ...], value: Any) -> None:
    if np.ndim(value):
        elements = np.arange(target.size).reshape(target.shape)[index]
        if np.unique(elements).size != elements.size:
            raise RuntimeError("stand-in: two values for one element: which one stays is undefined; use cupy.add.at")
    target[index] = value
