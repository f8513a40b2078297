"""Two-dimensional convolution: every output pixel is a weighted sum of a small window of the input."""

from ministn.kernels.conv2d.op import Conv2d, conv2d

__all__ = ["Conv2d", "conv2d"]
