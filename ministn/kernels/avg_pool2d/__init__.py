"""Average pooling: every output pixel is the mean of one window of the input."""

from ministn.kernels.avg_pool2d.op import AvgPool2d, avg_pool2d

__all__ = ["AvgPool2d", "avg_pool2d"]
