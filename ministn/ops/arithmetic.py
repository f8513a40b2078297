"""Element by element: + - * / and powers, broadcasting as NumPy does."""

from __future__ import annotations

from typing import Any

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module
from ministn.ops._common import as_operand, in_floating_point, unbroadcast


class Add(Function):
    """c = a + b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, grad_output: Array) -> tuple[Array, Array]:
        shape_a, shape_b = self.shapes
        return unbroadcast(grad_output, shape_a), unbroadcast(grad_output, shape_b)


class Subtract(Function):
    """c = a - b."""

    def forward(self, a: Array, b: Array) -> Array:
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, grad_output: Array) -> tuple[Array, Array]:
        shape_a, shape_b = self.shapes
        return unbroadcast(grad_output, shape_a), unbroadcast(-grad_output, shape_b)


class Multiply(Function):
    """c = a b, so dc/da = b and dc/db = a."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a * b

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        grad_a = unbroadcast(grad_output * self.b, self.a.shape) if self.needs_grad[0] else None
        grad_b = unbroadcast(grad_output * self.a, self.b.shape) if self.needs_grad[1] else None
        return grad_a, grad_b


class Divide(Function):
    """c = a / b, so dc/da = 1 / b and dc/db = -(a / b) / b, as b^2 might over- or underflow."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return a / b

    def backward(self, grad_output: Array) -> tuple[Array | None, Array | None]:
        grad = grad_output / self.b
        grad_a = unbroadcast(grad, self.a.shape) if self.needs_grad[0] else None
        grad_b = unbroadcast(-grad * (self.a / self.b), self.b.shape) if self.needs_grad[1] else None
        return grad_a, grad_b


class Power(Function):
    """c = a^p for a fixed number p, so dc/da = p a^(p - 1)."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, a: Array) -> Array:
        self.a = a
        return a**self.exponent

    def backward(self, grad_output: Array) -> Array:
        if self.exponent == 0:  # a^-1 would be infinite at 0, where the slope of the constant 1 is still 0
            return array_module(grad_output).zeros_like(grad_output)
        return grad_output * (self.exponent * self.a ** (self.exponent - 1))


def add(a: Any, b: Any) -> Tensor:
    """a + b, broadcasting."""
    return _binary(Add, a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, broadcasting."""
    return _binary(Subtract, a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b element by element, broadcasting."""
    return _binary(Multiply, a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b element by element, broadcasting."""
    return _binary(Divide, a, b, floating=True)


def power(a: Tensor, exponent: float) -> Tensor:
    """a ** exponent element by element, for a fixed number `exponent`."""
    if not isinstance(exponent, (int, float)):
        raise TypeError(f"power: expected a number as exponent, got {type(exponent).__name__}")
    if isinstance(exponent, float):
        a, exponent = in_floating_point(a), float(exponent)  # a np.float64 would make float32 values float64
    return Power.apply(a, exponent=exponent)


def _binary(function: type[Function], a: Any, b: Any, floating: bool = False) -> Tensor:
    """`function` of both operands; integers beside floating-point numbers are converted to their dtype."""
    like = a if isinstance(a, Tensor) else b
    operands = [as_operand(a, like), as_operand(b, like)]
    if floating and not any(operand.dtype.kind == "f" for operand in operands):
        operands = [in_floating_point(operand) for operand in operands]
    for this, other in ((0, 1), (1, 0)):
        if operands[this].dtype.kind != "f" and operands[other].dtype.kind == "f":
            operands[this] = Tensor(operands[this].data.astype(operands[other].dtype))
    try:
        return function.apply(*operands)
    except ValueError as error:
        name, shapes = function.__name__.lower(), " and ".join([str(operand.shape) for operand in operands])
        raise ValueError(f"{name}: expected shapes that broadcast, got {shapes}") from error
