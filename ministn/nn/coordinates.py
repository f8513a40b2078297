"""Coordinates as image channels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import array_module
from ministn.kernels._checks import check_tensor
from ministn.nn.module import Module
from ministn.ops.shape import append_channels


class AddCoordinates(Module):
    r"""Append to an image the channels x, y and, if wanted, r.

    .. math:: x_{ij} = -1 + \frac{2 j}{W - 1}, \quad y_{ij} = -1 + \frac{2 i}{H - 1}, \quad r = \sqrt{x^2 + y^2}

    x grows along the last axis (columns), y along the rows, each by its own length: -1 is the centre of the first
    pixel, +1 that of the last. On an axis of length 1 the only pixel lies in the middle, at 0. The memory order of
    the image is kept.

    Parameters
    ----------
    radius : bool
        Whether to append r, the distance from the image's centre, 0 to sqrt(2).

    Attributes
    ----------
    channels : int
        How many channels are appended: 2 or 3.

    References
    ----------
    Liu et al. (2018), arXiv:1807.03247, section 3.
    """

    def __init__(self, radius: bool = False) -> None:
        self.radius = radius
        self.channels = 3 if radius else 2

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + 2 or 3, H, W)."""
        check_tensor("AddCoordinates", "input", input, "N C H W")
        height, width = input.shape[2:]
        return append_channels(input, _coordinates(array_module(input.data), height, width, self.radius, input.dtype))

    def extra_repr(self) -> str:
        return f"radius={self.radius}"


@functools.cache  # without a limit: a recorded step on the GPU reads from it for ever
def _coordinates(xp: Any, height: int, width: int, radius: bool, dtype: Any) -> Any:
    """The channels (x, y) or (x, y, r) of every image of this size, in an array of `xp`: to read, not to write."""
    channels = np.empty((3 if radius else 2, height, width), dtype=dtype)
    channels[0] = _positions(width)
    channels[1] = _positions(height)[:, None]
    if radius:
        channels[2] = np.sqrt(channels[0] ** 2 + channels[1] ** 2)
    return xp.asarray(channels)


def _positions(length: int) -> np.ndarray:
    return np.linspace(-1, 1, length) if length > 1 else np.zeros(length)
