"""Module: a part of a network that owns its parameters, its buffers and other modules.

A module is found out by looking at its attributes: a `Parameter` is trained, a `Module` is a part of this one, and a
tensor named in `register_buffer` is saved but not trained. Nothing else is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import array_module, to_device


class Parameter(Tensor):
    """A tensor that a module learns: as an attribute of a `Module` it appears in ``module.parameters()``.

    Parameters
    ----------
    data : array, number or nested list
        As for `Tensor`; an array is kept as it is, not copied, and the optimiser will write to it.
    requires_grad : bool
        False freezes it: it is saved with the module but gets no gradient.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad=requires_grad)


class Module:
    """The base of all layers and networks: subclasses set attributes in ``__init__`` and define `forward`.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter(2.0)
    ...     def forward(self, x):
    ...         return self.factor * x
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']

    Attributes
    ----------
    training : bool
        Whether layers such as dropout behave as in training; see `train` and `eval`.
    """

    training: bool = True
    _buffer_names: tuple[str, ...] = ()

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """The output of the module; call the module itself, ``module(x)``."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        return self.forward(*inputs, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        # ``layer.weight = layer.weight * 2`` would make a parameter vanish from parameters() without a word.
        current = self.__dict__.get(name)
        if isinstance(current, Parameter) and not (value is None or isinstance(value, Parameter)):
            raise TypeError(
                f"{type(self).__name__}: expected a Parameter or None for {name!r}, got {type(value).__name__}; "
                f"to change its values, write to {name}.data"
            )
        if name in self._buffer_names and not isinstance(value, Tensor):
            raise TypeError(f"{type(self).__name__}: expected a Tensor for buffer {name!r}, got {type(value).__name__}")
        super().__setattr__(name, value)

    def register_buffer(self, name: str, tensor: Tensor) -> None:
        """Set attribute `name` to a tensor that is saved with the module but not trained, such as a running mean."""
        if not isinstance(tensor, Tensor) or isinstance(tensor, Parameter):
            raise TypeError(f"register_buffer: expected a Tensor for {name!r}, got {type(tensor).__name__}")
        if name in self.__dict__ or hasattr(type(self), name):
            raise ValueError(f"register_buffer: {type(self).__name__} already has an attribute {name!r}")
        self._buffer_names = (*self._buffer_names, name)
        setattr(self, name, tensor)

    # --- what the module is made of -------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, with their names."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one."""
        return (child for _, child in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module (its name is empty) and all below it, each once, with names such as ``"features.0"``."""
        return _each_once(self._walk())

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters, also those of the modules below, each once, with names such as ``"features.0.weight"``."""
        return _each_once(
            (_join(prefix, name), value)
            for prefix, module in self._walk()
            for name, value in vars(module).items()
            if isinstance(value, Parameter)
        )

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once: what an optimiser takes."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers, also those of the modules below, each once, with their names."""
        return _each_once(
            (_join(prefix, name), getattr(module, name))
            for prefix, module in self._walk()
            for name in module._buffer_names
        )

    def buffers(self) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers())

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it; one that is used in two places comes twice, under both names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child._walk(_join(prefix, name))

    # --- modes ----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set `training` for this module and all below it; returns the module."""
        if self.training != mode:
            self.training = mode
        for value in vars(self).values():
            if isinstance(value, Module):
                value.train(mode)
        return self

    def eval(self) -> Self:
        """Behave as in use, not as in training: no dropout, batch normalisation by running statistics."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: Any) -> Self:
        """Convert all floating-point parameters, gradients and buffers to `dtype`, in place; returns the module."""
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"Module.astype: expected float32 or float64, got {dtype}")
        for _, tensor in (*self.named_parameters(), *self.named_buffers()):
            if tensor.dtype.kind == "f":  # counters stay integers
                tensor.data = tensor.data.astype(dtype)
                if tensor.grad is not None:
                    tensor.grad = Tensor(tensor.grad.data.astype(dtype))
        return self

    def to(self, device: str) -> Self:
        """Move all parameters, gradients and buffers to `device`, in place; returns the module.

        An optimiser of these parameters stays valid: what it remembers of them follows at its next step.

        Parameters
        ----------
        device : {"cpu", "gpu"}

        Raises
        ------
        DeviceError
            If `device` is ``"gpu"`` and there is no CuPy, or no GPU that it can use.
        """
        for _, tensor in (*self.named_parameters(), *self.named_buffers()):
            tensor.data = to_device(tensor.data, device)
            if tensor.grad is not None:
                tensor.grad = Tensor(to_device(tensor.grad.data, device))
        return self

    def float(self) -> Self:
        """Convert to float32, in place."""
        return self.astype(np.float32)

    def double(self) -> Self:
        """Convert to float64, in place."""
        return self.astype(np.float64)

    # --- saving and loading ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, detached, sharing memory with the module; PyTorch's names and order."""
        return {name: tensor.detach() for name, tensor in self._named_state()}

    def load_state_dict(
        self, state: Mapping[str, Tensor | np.ndarray], strict: bool = True
    ) -> tuple[list[str], list[str]]:
        """Copy `state` into the parameters and buffers: all of it, or on any error nothing.

        Parameters
        ----------
        state : mapping of str to Tensor or numpy.ndarray
            What `state_dict` returned, or what a file holds; each of the shape and dtype of the module's own.
        strict : bool
            Whether missing and unexpected names are an error; otherwise they are left alone and returned.

        Returns
        -------
        missing, unexpected : list of str
            Names that only the module has, and names that only `state` has.

        Raises
        ------
        ValueError
            One message that lists every name that is missing, unexpected, or of another shape, dtype or type.
        """
        own = dict(self._named_state())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        problems = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
        problems = problems if strict else []
        arrays: dict[str, np.ndarray] = {}
        for name, tensor in own.items():
            if name not in state:
                continue
            value = state[name]
            array = value.detach().numpy() if isinstance(value, Tensor) else value
            if not isinstance(array, np.ndarray):
                problems.append(f"{name}: expected a Tensor or a NumPy array, got {type(value).__name__}")
            elif array.shape != tensor.shape:
                problems.append(f"{name}: expected shape {tensor.shape}, got {array.shape}")
            elif array.dtype != tensor.dtype:
                problems.append(f"{name}: expected dtype {tensor.dtype}, got {array.dtype}")
            else:
                arrays[name] = array
        if problems:
            raise ValueError(f"load_state_dict: this state does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, array in arrays.items():
            data = own[name].data
            data[...] = array_module(data).asarray(array)
        return missing, unexpected

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in self._walk():
            for name, value in vars(module).items():
                if isinstance(value, Parameter):
                    yield _join(prefix, name), value
            for name in module._buffer_names:
                yield _join(prefix, name), getattr(module, name)

    # --- printing -------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The options of the layer, as `repr` shows them in parentheses."""
        return ""

    def __repr__(self) -> str:
        parts = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not parts:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [*([self.extra_repr()] if self.extra_repr() else []), *parts]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _each_once(items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The named objects, each under the first of its names."""
    seen: set[int] = set()
    for name, value in items:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value
