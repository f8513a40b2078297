"""Tensor: an array that remembers which Function made it, and the backward sweep that follows those links.

The graph is made of links Tensor -> creator (a Function) -> inputs (Tensors), never the other way, so it has no
cycles and vanishes with its last Tensor, without waiting for the garbage collector.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ministn.backend import Array, array_module, device_of, is_array

if TYPE_CHECKING:
    from ministn.autodiff.function import Function

_NATIVE = frozenset(np.dtype(name) for name in ("float32", "float64", "int64", "uint8", "bool"))  # what most data are


class Tensor:
    """An array with a gradient.

    Parameters
    ----------
    data : array, Tensor, number or nested list
        An array, or a Tensor's, is kept as it is, not copied; a subclass of NumPy's as the plain array that it is in
        memory, but one with a mask is refused. Python numbers and lists of them become float32 (or int64, or bool).
    requires_grad : bool
        Whether `backward` should leave the gradient with respect to this tensor in `grad`.

    Attributes
    ----------
    data : numpy.ndarray or cupy.ndarray
    grad : Tensor or None
        Sum of the gradients of all `backward` calls since it was last set to None; shape and dtype of `data`.
    """

    __slots__ = ("__weakref__", "_retains_grad", "creator", "data", "grad", "requires_grad")
    __array_priority__ = 100  # array + Tensor calls Tensor.__radd__
    __array_ufunc__ = None

    def __init__(self, data: Any, requires_grad: bool = False, creator: Function | None = None) -> None:
        if type(data) is not np.ndarray:
            data = _as_array(data)
        if data.dtype not in _NATIVE:
            data = _native(data)
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"Tensor: only floating-point data can require a gradient, got {data.dtype}")
        self.data: Array = data
        self.grad: Tensor | None = None
        self.requires_grad = requires_grad
        self.creator = creator
        self._retains_grad = False

    # --- what the tensor is ---------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        return device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """True for tensors that no recorded operation made, such as parameters and data."""
        return self.creator is None

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of axis `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements."""
        return int(self.data.size)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The data as a NumPy array, sharing memory where it can; an error where a gradient would be lost."""
        if self.requires_grad:
            raise RuntimeError("numpy(): this tensor takes part in a gradient; call .detach().numpy()")
        return self.data if self.device == "cpu" else self.data.get()  # type: ignore[no-any-return]

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self.data.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.data)  # of one element; NumPy's error says so for more

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def detach(self) -> Tensor:
        """The same data, with no history and no gradient."""
        return Tensor(self.data)

    def retain_grad(self) -> None:
        """Keep `grad` for a tensor inside the graph too; otherwise only leaves keep theirs."""
        self._retains_grad = True

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("expected a tensor with an axis to count or iterate along, got one without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(np.asarray(self.detach().numpy()), prefix="tensor(", separator=", ", precision=4)
        made_by = f", creator={type(self.creator).__name__}" if self.creator else ""
        return f"tensor({text}, dtype={self.dtype}{', requires_grad=True' * self.requires_grad}{made_by})"

    # --- the backward sweep ---------------------------------------------------------------------------------------

    def backward(self, gradient: Tensor | Array | None = None, retain_graph: bool = False) -> None:
        """Add to every leaf's `grad` the derivative of this tensor, weighted by `gradient`.

        The chain rule, one Function at a time, from this tensor back: a Function runs once the gradient with respect
        to its output is complete, for which it waits its turn, see `_turn`.

        Parameters
        ----------
        gradient : Tensor or array of this tensor's shape, optional
            The gradient of the final quantity with respect to this tensor; 1 by default, for a scalar loss.
        retain_graph : bool
            Keep what the Functions saved, so that `backward` can be called again on the same graph.

        Raises
        ------
        RuntimeError
            If no input requires a gradient, this is not a scalar and `gradient` is missing, or the graph was freed.
        ValueError
            If the shape or dtype of `gradient` is not this tensor's.
        TypeError
            If `gradient` is no Tensor and no array.
        """
        if not self.requires_grad:
            raise RuntimeError("backward(): no tensor that this one was computed from requires a gradient")
        if gradient is None:
            if self.numel() != 1:
                raise RuntimeError(f"backward(): expected a scalar or a gradient argument, got shape {self.shape}")
            gradient = array_module(self.data).ones_like(self.data)
        if not isinstance(gradient, Tensor) and not is_array(gradient):
            kind = type(gradient).__name__
            raise TypeError(f"backward(): expected the gradient to be a Tensor or an array, got {kind}")
        seed = _as_array(gradient)
        _check_gradient("backward()", seed, self)

        gradients: dict[int, Array] = {id(self): seed}  # so far, of each tensor that still waits for its turn
        unshared: set[int] = set()  # tensors whose gradient is an array that nothing else refers to
        waiting = [_turn(self)]
        while waiting:
            tensor = heapq.heappop(waiting)[-1]
            gradient = gradients.pop(id(tensor))
            gradient = np.asarray(gradient) if isinstance(gradient, np.generic) else gradient
            function = tensor.creator
            if function is None or tensor._retains_grad:
                # A copy, where other branches of the graph, and other leaves, may hold the same array.
                if tensor.grad is not None:
                    own = tensor.grad.data + gradient
                else:
                    own = gradient if function is None and id(tensor) in unshared else gradient.copy("K")
                tensor.grad = Tensor(own)
            if function is None:
                continue
            for parent, grad in zip(function.inputs, function.input_gradients(gradient), strict=True):
                if grad is None or not parent.requires_grad:
                    continue
                _check_gradient(type(function).__name__, grad, parent)
                seen = gradients.get(id(parent))
                if seen is None:
                    heapq.heappush(waiting, _turn(parent))
                if seen is not None or function.new_gradients:
                    unshared.add(id(parent))
                gradients[id(parent)] = grad if seen is None else seen + grad
            if not retain_graph:
                function.release()

    # ministn.ops binds the operators and the methods (sum, reshape, ...): the engine knows no operation.
    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...


def _as_array(data: Any) -> Array:
    """The array of a Tensor, an array as it is, or numbers as an array."""
    if isinstance(data, Tensor):
        return data.data
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError("Tensor: expected an array without a mask, got a MaskedArray; see its method filled")
    if is_array(data):
        return np.asarray(data) if isinstance(data, np.ndarray) else data  # a np.matrix would multiply as matrices do
    array = np.asarray(data)
    # A 0-d result of NumPy keeps the dtype that it has; Python's numbers have none of their own.
    from_python = not isinstance(data, np.generic)
    return array.astype(np.float32) if from_python and array.dtype == np.float64 else array


def _native(data: Array) -> Array:
    """`data` in the machine's byte order; an error if no Tensor can have its dtype."""
    if data.dtype.kind not in "fiub" or (data.dtype.kind == "f" and data.dtype.itemsize not in (4, 8)):
        raise TypeError(f"Tensor: expected float32, float64, integer or bool data, got {data.dtype}")
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _turn(tensor: Tensor) -> tuple[int, int, Tensor]:
    """Where a tensor stands in the backward sweep: the youngest first, leaves last.

    A Function is called after those that made its inputs, so from the youngest to the oldest is a reverse topological
    order: when a tensor's turn comes, everything that was computed from it has had its own.
    """
    return (1 if tensor.creator is None else -tensor.creator.number, id(tensor), tensor)


def _check_gradient(name: str, gradient: Array, tensor: Tensor) -> None:
    """An edge of the graph carries a gradient of exactly the shape and dtype of its tensor."""
    if gradient.shape != tensor.data.shape or gradient.dtype != tensor.data.dtype:
        raise ValueError(
            f"{name}: expected a gradient of shape {tensor.shape} and dtype {tensor.dtype}, "
            f"got {tuple(gradient.shape)} and {gradient.dtype}"
        )
