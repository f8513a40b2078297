"""Function: one differentiable operation, its forward and its backward side by side.

A subclass writes two methods on raw arrays. The instance itself is the context in which `forward` leaves what
`backward` will need:

>>> class Square(Function):
...     def forward(self, x):
...         self.x = x
...         return x * x
...     def backward(self, grad_output):
...         return 2 * self.x * grad_output  # d(x^2)/dx = 2x
>>> x = Tensor(3.0, requires_grad=True)
>>> Square.apply(x).backward()
>>> x.grad.item()
6.0
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ministn.autodiff.tensor import Tensor
from ministn.backend import Array, device_of


class _Recording(threading.local):
    enabled = True  # each thread records its own graph
    observer: Callable[..., None] | None = None


_recording = _Recording()
_numbers = itertools.count()


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within the block, operations compute values only: nothing is recorded, nothing is kept for `backward`."""
    before, _recording.enabled = _recording.enabled, False
    try:
        yield
    finally:
        _recording.enabled = before


@contextlib.contextmanager
def observed_by(observer: Callable[..., None]) -> Iterator[None]:
    """Within the block, ``observer(function, inputs, gradient, results)`` is called after every forward pass of a
    Function, where `gradient` is None and `results` the output alone, and after every backward pass."""
    before, _recording.observer = _recording.observer, observer
    try:
        yield
    finally:
        _recording.observer = before


class Function:
    """A node of the graph. `apply` runs `forward` and links the result to the inputs.

    Attributes
    ----------
    inputs : tuple of Tensor
        The tensors `forward` was called with.
    needs_grad : tuple of bool
        For each input, whether `backward` must compute its gradient; it may return None for the others.
    number : int
        Larger than that of every Function called before.
    new_gradients : bool
        Of a subclass: whether `backward` makes each gradient anew and keeps none, so that a leaf may have it without
        a copy.
    """

    new_gradients = False

    inputs: tuple[Tensor, ...]
    needs_grad: tuple[bool, ...]
    number: int

    def forward(self, *arrays: Array) -> Array:
        """The output array, from the input arrays."""
        raise NotImplementedError

    def backward(self, grad_output: Array) -> Array | tuple[Array | None, ...]:
        """The gradient with respect to each input, from the gradient with respect to the output.

        `grad_output` must not be written to: other branches of the graph may hold the same array.
        """
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Tensor, **options: Any) -> Tensor:
        """The Function, built with `options`, called on `inputs`.

        Raises
        ------
        TypeError
            If an input is no Tensor, if two of them differ in device, or in dtype when one is floating-point.
        """
        return cls(**options)(*inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        arrays = _arrays_of(type(self).__name__, inputs)
        recording = _recording.enabled
        self.needs_grad = tuple([recording and tensor.requires_grad for tensor in inputs])
        data = self.forward(*arrays)
        if _recording.observer is not None:
            _recording.observer(self, inputs, None, (data,))
        if True not in self.needs_grad:
            return Tensor(data)
        self.inputs, self.number = inputs, next(_numbers)
        return Tensor(data, requires_grad=True, creator=self)

    def input_gradients(self, grad_output: Array) -> tuple[Array | None, ...]:
        """`backward`'s answer as a tuple with one entry per input."""
        gradients = self.backward(grad_output)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        if _recording.observer is not None:
            _recording.observer(self, self.inputs, grad_output, gradients)
        return gradients

    def release(self) -> None:
        """Forget the inputs and everything `forward` saved, once the backward sweep has passed."""
        self.__dict__.clear()

    def __getattr__(self, name: str) -> Any:  # only called when the attribute is missing
        if name in ("inputs", "number"):
            raise RuntimeError(
                f"{type(self).__name__}: the graph was freed by an earlier backward(); "
                "pass retain_graph=True there to call it again"
            )
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")


def _arrays_of(name: str, inputs: tuple[Tensor, ...]) -> list[Array]:
    """The inputs' data: arrays of one library and, if one is floating-point, of one dtype."""
    arrays = []
    for tensor in inputs:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a Tensor, got {type(tensor).__name__}; wrap it with ministn.tensor(...)")
        arrays.append(tensor.data)
    for array in arrays[1:]:  # what follows is seldom needed: a check of every call costs more than the smallest calls
        if array.dtype != arrays[0].dtype or type(array) is not type(arrays[0]):
            _check_alike(name, arrays)
            break
    return arrays


def _check_alike(name: str, arrays: list[Array]) -> None:
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1 and any(dtype.kind == "f" for dtype in dtypes):
        # Promoting silently would hide a float64 that slows everything down: NumPy makes float32 * int64 one.
        names = " and ".join(sorted(map(str, dtypes)))
        raise TypeError(f"{name}: expected inputs of one dtype, got {names}; convert with .astype(...)")
    devices = {device_of(array) for array in arrays}
    if len(devices) > 1:
        raise TypeError(f"{name}: expected inputs on one device, got {' and '.join(sorted(devices))}")
