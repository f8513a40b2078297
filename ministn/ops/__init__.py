"""Operations written as whole-array expressions, alike for NumPy and CuPy, and bound to `Tensor` as methods.

Operations whose loop is worth reading are in `ministn.kernels`.
"""

from collections.abc import Callable
from typing import Any

from ministn.autodiff import Tensor
from ministn.ops import activation, arithmetic, comparison, linalg, reduction, shape

_METHODS: dict[str, Callable[..., Any] | property] = {
    "__add__": arithmetic.add,
    "__radd__": arithmetic.add,
    "__sub__": arithmetic.subtract,
    "__rsub__": lambda self, other: arithmetic.subtract(other, self),
    "__mul__": arithmetic.multiply,
    "__rmul__": arithmetic.multiply,
    "__truediv__": arithmetic.divide,
    "__rtruediv__": lambda self, other: arithmetic.divide(other, self),
    "__neg__": lambda self: arithmetic.multiply(self, -1),
    "__eq__": comparison.equal,
    "__ne__": comparison.not_equal,
    "__lt__": comparison.less,
    "__le__": comparison.less_equal,
    "__gt__": comparison.greater,
    "__ge__": comparison.greater_equal,
    "__matmul__": linalg.matmul,
    "__pow__": arithmetic.power,
    "__getitem__": shape.getitem,
    "reshape": shape.reshape,
    "view": shape.reshape,
    "flatten": shape.flatten,
    "permute": shape.permute,
    "transpose": shape.transpose,
    "T": property(shape.matrix_transpose),
    "astype": shape.astype,
    "to": shape.to,
    "cpu": shape.cpu,
    "sum": reduction.sum,
    "mean": reduction.mean,
    "max": reduction.max,
    "argmax": reduction.argmax,
    "relu": activation.relu,
    "tanh": activation.tanh,
    "sigmoid": activation.sigmoid,
    "exp": activation.exp,
    "log": activation.log,
    "sin": activation.sin,
    "cos": activation.cos,
    "softmax": activation.softmax,
    "log_softmax": activation.log_softmax,
}
for _name, _operation in _METHODS.items():
    setattr(Tensor, _name, _operation)
