"""CuPy runs the expressions of `reference` as they are."""

from ministn.ops.softmax.reference import log_softmax, log_softmax_gradient

__all__ = ["log_softmax", "log_softmax_gradient"]
