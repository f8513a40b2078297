"""CuPy runs the expressions of `reference` as they are."""

from ministn.ops.elementwise.reference import adam_, add_scaled_, relu, relu_gradient, scale_and_add_, scaled

__all__ = ["adam_", "add_scaled_", "relu", "relu_gradient", "scale_and_add_", "scaled"]
