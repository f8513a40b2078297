"""Layers, losses and initial values, under the names that `torch.nn` uses."""

from ministn.nn import init, transforms, utils
from ministn.nn.activation import ReLU, Sigmoid, Tanh
from ministn.nn.container import Flatten, Parallel, Sequential
from ministn.nn.convolution import Conv2d, ConvTranspose2d, CoordConv2d
from ministn.nn.coordinates import AddCoordinates
from ministn.nn.dropout import Dropout, Dropout2d
from ministn.nn.linear import Linear
from ministn.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, MultiMarginLoss, NLLLoss, SmoothL1Loss
from ministn.nn.module import Module, Parameter
from ministn.nn.normalization import BatchNorm1d, BatchNorm2d
from ministn.nn.pooling import AvgPool2d, MaxPool2d
from ministn.nn.spatial_transformer import SpatialTransformer, identity_

__all__ = [
    "AddCoordinates",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "CoordConv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "MultiMarginLoss",
    "NLLLoss",
    "Parallel",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SmoothL1Loss",
    "SpatialTransformer",
    "Tanh",
    "identity_",
    "init",
    "transforms",
    "utils",
]
