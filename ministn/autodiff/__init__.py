"""Reverse-mode automatic differentiation: `Tensor`, `Function`, `no_grad`, `gradcheck`. It knows no operation."""

from ministn.autodiff.function import Function, no_grad
from ministn.autodiff.gradcheck import GradcheckError, gradcheck
from ministn.autodiff.tensor import Tensor

__all__ = ["Function", "GradcheckError", "Tensor", "gradcheck", "no_grad"]
