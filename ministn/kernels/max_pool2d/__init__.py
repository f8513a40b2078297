"""Max pooling: every output pixel is the largest value of one window of the input."""

from ministn.kernels.max_pool2d.op import MaxPool2d, max_pool2d

__all__ = ["MaxPool2d", "max_pool2d"]
