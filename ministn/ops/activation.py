"""One-variable functions, and softmax."""

from __future__ import annotations

from ministn.autodiff import Function, Tensor
from ministn.backend import Array, array_module, implementation
from ministn.ops._common import axis_of, in_floating_point

_ELEMENTWISE, _SOFTMAX = "ministn.ops.elementwise", "ministn.ops.softmax"


class ReLU(Function):
    """y = max(x, 0); the slope at 0 is taken as 0."""

    def forward(self, x: Array) -> Array:
        self.y = implementation(_ELEMENTWISE, x).relu(x)
        return self.y

    def backward(self, grad_output: Array) -> Array:
        return implementation(_ELEMENTWISE, grad_output).relu_gradient(grad_output, self.y)


class Tanh(Function):
    """y = tanh x, y' = 1 - y^2."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).tanh(x)
        return self.y

    def backward(self, grad_output: Array) -> Array:
        return grad_output * (1 - self.y * self.y)


class Sigmoid(Function):
    """y = 1 / (1 + e^-x) and y' = y (1 - y), both from e = e^-|x|, which cannot overflow.

    y = 1 / (1 + e) for x >= 0, else e / (1 + e), and y' = e / (1 + e)^2 keep their digits where y or 1 - y is tiny.
    """

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        self.e = xp.exp(-abs(x))
        return xp.where(x >= 0, x.dtype.type(1), self.e) / (1 + self.e)

    def backward(self, grad_output: Array) -> Array:
        return grad_output * (self.e / (1 + self.e) ** 2)


class Exp(Function):
    """y = e^x, y' = y."""

    def forward(self, x: Array) -> Array:
        self.y = array_module(x).exp(x)
        return self.y

    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.y


class Log(Function):
    """y = ln x, y' = 1 / x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).log(x)

    def backward(self, grad_output: Array) -> Array:
        return grad_output / self.x


class Sin(Function):
    """y = sin x, y' = cos x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).sin(x)

    def backward(self, grad_output: Array) -> Array:
        return grad_output * array_module(grad_output).cos(self.x)


class Cos(Function):
    """y = cos x, y' = -sin x."""

    def forward(self, x: Array) -> Array:
        self.x = x
        return array_module(x).cos(x)

    def backward(self, grad_output: Array) -> Array:
        return -grad_output * array_module(grad_output).sin(self.x)


class XLogX(Function):
    """y = x ln x, y' = 1 + ln x; at 0 both are 0: the limit of y, and the slope that a squared distance needs there."""

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        self.log = xp.log(xp.where(x == 0, xp.ones_like(x), x))  # ln 1 = 0 in the place of ln 0
        self.positive = (x != 0).astype(x.dtype)
        return x * self.log

    def backward(self, grad_output: Array) -> Array:
        return grad_output * (self.log + self.positive)


class LogSoftmax(Function):
    """y_k = x_k - ln sum_j e^(x_j) along an axis, so dx_k = dy_k - e^(y_k) sum_j dy_j."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        self.y = implementation(_SOFTMAX, x).log_softmax(x, self.axis) if x.size else x.copy()
        return self.y

    def backward(self, grad_output: Array) -> Array:
        if not self.y.size:
            return grad_output
        return implementation(_SOFTMAX, grad_output).log_softmax_gradient(grad_output, self.y, self.axis)


def relu(x: Tensor) -> Tensor:
    """max(x, 0) element by element; the gradient at 0 is 0."""
    return ReLU.apply(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent element by element."""
    return Tanh.apply(in_floating_point(x))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) element by element."""
    return Sigmoid.apply(in_floating_point(x))


def exp(x: Tensor) -> Tensor:
    """e^x element by element."""
    return Exp.apply(in_floating_point(x))


def log(x: Tensor) -> Tensor:
    """The natural logarithm element by element."""
    return Log.apply(in_floating_point(x))


def sin(x: Tensor) -> Tensor:
    """The sine element by element, of an angle in radians."""
    return Sin.apply(in_floating_point(x))


def cos(x: Tensor) -> Tensor:
    """The cosine element by element, of an angle in radians."""
    return Cos.apply(in_floating_point(x))


def xlogx(x: Tensor) -> Tensor:
    """x ln x element by element, for x >= 0; 0 at 0, and the slope there, which is infinite, is taken as 0.

    With x = r^2 this is the radial function of a thin plate spline. Its gradient with respect to a point at distance r
    is 2 r (1 + ln r^2) in length, which tends to 0 with r: 0 is the right answer there.
    """
    return XLogX.apply(in_floating_point(x))


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The logarithm of the softmax along axis `dim`, computed without overflow."""
    return LogSoftmax.apply(in_floating_point(x), axis=axis_of("log_softmax", x, dim))


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """e^x / sum e^x along axis `dim`."""
    return exp(log_softmax(x, dim))
