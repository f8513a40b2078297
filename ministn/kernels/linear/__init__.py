"""The dense layer: every output is a weighted sum of all inputs; see README.md."""

from ministn.kernels.linear.op import linear

__all__ = ["linear"]
