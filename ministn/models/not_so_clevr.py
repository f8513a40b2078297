"""The networks of the CoordConv paper for Not-so-Clevr: one with coordinates and one without, for each of three tasks.

| task | from | to |
|---|---|---|
| classification | the centre's coordinates (N, 2) | logits of the 4096 pixels (N, 4096), of which one is the centre |
| rendering | the same | logits of the 4096 pixels, each of which is in the square or not |
| regression | an image of the centre's pixel (N, 1, 64, 64) | the centre's coordinates (N, 2) |

Sizes are those of the paper's code, initial values too: convolutions start normal with variance 2 / fan_in, dense
layers uniform as Xavier has it, biases at 0. (The code's normal distribution is cut off at two deviations.)

References
----------
R. Liu et al. (2018), "An intriguing failing of convolutional neural networks and the CoordConv solution",
arXiv:1807.03247, section 4; https://github.com/uber-research/CoordConv, model_builders.py.
"""

from __future__ import annotations

import itertools

from ministn import functional as F
from ministn import nn
from ministn.autodiff import Tensor
from ministn.backend import array_module

CANVAS = 64
TASKS, LAYERS = ("classification", "rendering", "regression"), ("conv", "coordconv")


class Tile(nn.Module):
    """Each number becomes a channel that has it everywhere: (N, C) to (N, C, size, size)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        everywhere = array_module(input.data).zeros((1, 1, self.size, self.size), input.dtype)
        return input.reshape(*input.shape, 1, 1) + Tensor(everywhere)

    def extra_repr(self) -> str:
        return f"{self.size}"


class SoftmaxOfPixels(nn.Module):
    """Logits (N, 1, H, W) to probabilities that are one in sum over each image: the place becomes sharp."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input.flatten(1), dim=1).reshape(input.shape)


class GlobalMean(nn.Module):
    """The mean of each channel: (N, C, H, W) to (N, C)."""

    def forward(self, input: Tensor) -> Tensor:
        return input.mean((2, 3))


def not_so_clevr_model(
    task: str, layer: str, split: str = "uniform", filter_size: int = 3, multiple: int = 2, softmax: bool = True
) -> nn.Sequential:
    """The paper's network for a task.

    ==============  =======================================  ==========================================================
    parameters      coordconv                                conv
    ==============  =======================================  ==========================================================
    classification  7,553                                    transposed: 46,465 (size 2, multiple 1) to 1,632,001 (4, 3)
    rendering       8,074 (size 1, multiple 1) to 24,210     the same as for classification
                    (3, 2)
    regression      906                                      uniform: 72,850, quadrant: 12,914 (multiple 1)
    ==============  =======================================  ==========================================================

    Parameters
    ----------
    task : {"classification", "rendering", "regression"}
    layer : {"conv", "coordconv"}
    split : {"uniform", "quadrant"}
        For which the paper has different networks for regression by plain convolution.
    filter_size : int
        Of the transposed convolutions, 2 to 4, or of those that paint in "rendering" with "coordconv", 1 or 3.
    multiple : int
        Of the channels in the networks with a `filter_size`, and in the plain ones for regression.
    softmax : bool
        Whether in "rendering" with "coordconv" a softmax over the pixels lies before the layers that paint. An option
        of the paper's code, too. At first it makes of all pixels 1 / 4096, and lets next to no gradient pass.

    Returns
    -------
    Sequential
    """
    for argument, value, choices in (("task", task, TASKS), ("layer", layer, LAYERS)):
        if value not in choices:
            expected = ", ".join(map(repr, choices))
            raise ValueError(f"not_so_clevr_model: expected {argument} to be one of {expected}, got {value!r}")
    if task == "regression":
        plain = _strided_regressor if split == "quadrant" else _pooled_regressor
        layers = _coordinate_regressor() if layer == "coordconv" else plain(multiple)
    elif layer == "conv":
        layers = [*_transposed(filter_size, multiple), nn.Flatten()]
    elif task == "classification":
        layers = [*_pointwise(), nn.Flatten()]
    else:
        sharpen = [SoftmaxOfPixels()] if softmax else []
        layers = [*_pointwise(), *sharpen, *_painter(filter_size, multiple), nn.Flatten()]
    model = nn.Sequential(*layers)
    _initialise(model)
    return model


def _pointwise() -> list[nn.Module]:
    """The same small network at each pixel, which knows what is wanted and where it is itself."""
    widths = (32, 32, 64, 64, 1)
    layers: list[nn.Module] = [Tile(CANVAS), nn.CoordConv2d(2, widths[0], 1)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.ReLU(), nn.Conv2d(before, after, 1)]
    return layers


def _transposed(size: int, multiple: int) -> list[nn.Module]:
    """From one pixel of two channels to 2 x 2, 4 x 4 and so on.

    Of an odd filter one row and column have to go, here the upper and left ones, in the paper's code the others.
    """
    if not 2 <= size <= 4:
        raise ValueError(f"not_so_clevr_model: expected filter_size to be 2, 3 or 4, got {size}")
    widths = (2, *(multiple * width for width in (64, 64, 64, 32, 32)), 1)
    layers: list[nn.Module] = [Tile(1)]
    for before, after in itertools.pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, size, 2, (size - 1) // 2, size % 2)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()] if after > 1 else []
    return layers


def _painter(size: int, multiple: int) -> list[nn.Module]:
    """From the centre's probability to the square, by convolutions that keep the size."""
    if size % 2 != 1:
        raise ValueError(f"not_so_clevr_model: expected filter_size to be odd, got {size}")
    widths = (1, *(multiple * width for width in (8, 8, 16, 16)), 1)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, size, padding=size // 2)]
        layers += [nn.ReLU()] if after > 1 else []
    return layers


def _coordinate_regressor() -> list[nn.Module]:
    """Linear at each pixel, up to the maximum over the image: it needs that the pixel at the centre stands out."""
    return [
        nn.CoordConv2d(1, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 2, 3, padding=1),
        nn.MaxPool2d(CANVAS),
        nn.Flatten(),
    ]


def _pooled_regressor(multiple: int) -> list[nn.Module]:
    width = 16 * multiple
    layers: list[nn.Module] = []
    for channels in (1, width, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return [*layers, nn.Linear((CANVAS // 8) ** 2 * width, 64), nn.ReLU(), nn.Linear(64, 2)]


def _strided_regressor(multiple: int) -> list[nn.Module]:
    width = 16 * multiple

    def same(size: int, stride: int, before: int = width, after: int = width) -> nn.Module:
        return nn.Conv2d(before, after, size, stride, size // 2)

    return [
        *(same(5, 2, before=1), nn.ReLU()),
        *(same(1, 1), nn.ReLU(), nn.BatchNorm2d(width)),
        *(same(3, 1), nn.ReLU()),
        *(same(3, 2), nn.ReLU()),
        *(same(3, 2), nn.BatchNorm2d(width), nn.ReLU()),
        *(same(3, 2), nn.ReLU()),
        *(same(1, 1), nn.ReLU()),
        *(same(3, 2), nn.ReLU()),
        *(same(3, 1, after=2), nn.ReLU()),
        GlobalMean(),
    ]


def _initialise(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
