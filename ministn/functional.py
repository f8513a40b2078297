"""The flat menu of differentiable functions, under the names that `torch.nn.functional` uses.

>>> import ministn.functional as F
"""

from ministn.kernels.affine_grid import affine_grid
from ministn.kernels.avg_pool2d import avg_pool2d
from ministn.kernels.conv2d import conv2d
from ministn.kernels.grid_sample import grid_sample
from ministn.kernels.linear import linear
from ministn.kernels.max_pool2d import max_pool2d
from ministn.kernels.projective_grid import projective_grid
from ministn.kernels.spatial_transform import spatial_transform
from ministn.kernels.thin_plate_spline_grid import thin_plate_spline_grid
from ministn.ops.activation import cos, exp, log, log_softmax, relu, sigmoid, sin, softmax, tanh, xlogx
from ministn.ops.convolution import conv_transpose2d
from ministn.ops.dropout import dropout, dropout2d
from ministn.ops.linalg import inverse, matmul
from ministn.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    smooth_l1_loss,
)
from ministn.ops.normalization import batch_norm
from ministn.ops.shape import concatenate, flatten

__all__ = [
    "affine_grid",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "concatenate",
    "conv2d",
    "conv_transpose2d",
    "cos",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "exp",
    "flatten",
    "grid_sample",
    "inverse",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "projective_grid",
    "relu",
    "sigmoid",
    "sin",
    "smooth_l1_loss",
    "softmax",
    "spatial_transform",
    "tanh",
    "thin_plate_spline_grid",
    "xlogx",
]
