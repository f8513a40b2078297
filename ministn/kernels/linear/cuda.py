"""CuPy's matrix products: the expressions of `reference` as they are."""

from ministn.kernels.linear.reference import backward, forward

__all__ = ["backward", "forward"]
