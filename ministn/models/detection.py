r"""To find digits in a field: a region proposal network, its boxes, and a network that answers with one box.

Boxes are (x0, y0, x1, y1) in pixels of the image, whose outer edges are 0 and 64. An *anchor* is a box that a cell of
the network's last layer looks at; the network says how likely a digit is there, and how the digit's box differs:

.. math::
    t_x = \frac{x - x_a}{w_a}, \quad t_y = \frac{y - y_a}{h_a}, \quad
    t_w = \log\frac{w}{w_a}, \quad t_h = \log\frac{h}{h_a}

with (x, y) the centre, w and h the sides of the digit's box, and those of the anchor with an a.

References
----------
S. Ren, K. He, R. Girshick, J. Sun (2015), "Faster R-CNN: towards real-time object detection with region proposal
networks", arXiv:1506.01497, section 3.1; R. Liu et al. (2018), "An intriguing failing of convolutional neural networks
and the CoordConv solution", arXiv:1807.03247, section 5; https://github.com/uber-research/CoordConv,
model_builder_faster_rcnn.py.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from ministn import functional as F
from ministn import nn
from ministn.autodiff import Tensor
from ministn.kernels._checks import check_choice

CANVAS, STRIDE = 64, 4  # pixels: the side of the images, and from cell to cell
SIDES = 15, 20, 25  # pixels: heights and widths of the anchors, each with each
LAYERS = ("conv", "coordconv")
HIDDEN = 32  # channels
POSITIVE, NEGATIVE = 0.5, 0.3  # an anchor is a digit's from this overlap on, and nobody's below that one


# --- boxes --------------------------------------------------------------------------------------------------------


@functools.cache
def anchors() -> np.ndarray:
    """The anchors of all cells, float64 (2304, 4), read-only: row by row, nine to a cell. Some stick out."""
    y = x = STRIDE * (np.arange(CANVAS // STRIDE) + 0.5)
    half = np.array(SIDES) / 2
    boxes = np.array([(x - w, y - h, x + w, y + h) for y, x, w, h in itertools.product(y, x, half, half)])
    boxes.flags.writeable = False
    return boxes


def encode(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """t of boxes (..., 4) as seen from anchors (..., 4): (..., 4) in the order x, y, w, h."""
    (centre, sides), (from_centre, from_sides) = _centre_and_sides(boxes), _centre_and_sides(anchors)
    return np.concatenate([(centre - from_centre) / from_sides, np.log(sides / from_sides)], axis=-1)


def decode(deltas: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The boxes (..., 4) that t (..., 4) means, without what is outside of the canvas."""
    from_centre, from_sides = _centre_and_sides(anchors)
    centre = from_centre + deltas[..., :2] * from_sides
    half = from_sides * np.exp(np.minimum(deltas[..., 2:], np.log(CANVAS))) / 2  # larger ones are cut in any case
    return np.concatenate([centre - half, centre + half], axis=-1).clip(0, CANVAS)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each of the boxes a (..., A, 4) with each of b (..., B, 4): (..., A, B)."""
    a, b = np.moveaxis(a[..., :, None, :], -1, 0), np.moveaxis(b[..., None, :, :], -1, 0)
    width, height = ((np.minimum(a[k + 2], b[k + 2]) - np.maximum(a[k], b[k])).clip(0) for k in (0, 1))
    common = width * height
    area_a, area_b = ((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    overlap: np.ndarray = common / np.maximum(area_a + area_b - common, 1e-9)  # 0 for two boxes without area
    return overlap


def non_maximum_suppression(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """The boxes that are left if each one, from the best down, sends off all that overlap with it.

    Parameters
    ----------
    boxes : ndarray, shape (A, 4)
    scores : ndarray, shape (A,)
    threshold : float
        From 0 to 1: the intersection over union above which a box has to go.
    most : int
        How many are wanted.

    Returns
    -------
    int64 ndarray, shape (at most `most`,)
        Their numbers, the best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[iou(boxes[left], boxes[best][None])[:, 0] <= threshold]
    return np.array(kept, np.int64)


def _centre_and_sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) / 2, last - first


# --- networks -----------------------------------------------------------------------------------------------------


class RegionProposalNetwork(nn.Module):
    """For each anchor a logit of whether it has a digit, and the four numbers of the digit's box.

    Two convolutions of 5 x 5, with pooling, lead to 16 x 16 cells, one of 3 x 3 to what both answers are made of. In
    the paper's code it has a `width` of 32, and two logits for the one here. (The code also has a choice between
    padded convolutions, as here, and others.)

    Parameters
    ----------
    layer : {"conv", "coordconv"}
        "coordconv": the first convolution, that of 3 x 3 and the last one for boxes are given coordinates.
    width : int
        Channels of the first convolution; the second one has twice as many.
    """

    def __init__(self, layer: str = "coordconv", width: int = 16) -> None:
        conv = _convolution("RegionProposalNetwork", layer)
        self.features = _features(conv, width)
        self.scores = nn.Conv2d(HIDDEN, len(SIDES) ** 2, 1)
        deltas = conv(HIDDEN, 4 * len(SIDES) ** 2, 1)
        self.boxes = nn.Sequential(nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.ReLU(), deltas)
        _initialise(self)
        nn.init.zeros_(deltas.weight)  # so that the first boxes are the anchors

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 64, 64) to (N, 2304, 5): for each of `anchors` the logit, then t_x, t_y, t_w, t_h."""
        features = self.features(images)
        parts = [(self.scores(features), 1), (self.boxes(features), 4)]
        return F.concatenate([part.permute(0, 2, 3, 1).reshape(len(images), -1, n) for part, n in parts], dim=2)


class BoxRegressor(nn.Module):
    """The box of the only digit, in coordinates of the image: the same features, their maxima, one dense layer.

    A convolution says that there is a digit, a maximum over the image does not say where; what is known of the place
    comes from coordinates, or from the zeros around the image. Parameters as in `RegionProposalNetwork`.
    """

    def __init__(self, layer: str = "coordconv", width: int = 16) -> None:
        self.features = _features(_convolution("BoxRegressor", layer), width)
        self.pool = nn.MaxPool2d(CANVAS // STRIDE)
        self.box = nn.Linear(HIDDEN, 4)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 64, 64) to boxes (N, 1, 4), in units of the canvas: 0 to 1."""
        return self.box(self.pool(self.features(images)).flatten(1)).reshape(len(images), 1, 4)


def _convolution(name: str, layer: str) -> Any:
    check_choice(name, "layer", layer, LAYERS)
    return nn.CoordConv2d if layer == "coordconv" else nn.Conv2d


def _features(conv: Any, width: int) -> nn.Sequential:
    """Images (N, 1, 64, 64) to (N, 32, 16, 16)."""
    return nn.Sequential(
        *(conv(1, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(2 * width, HIDDEN, 3, padding=1), nn.ReLU()),
    )


def _initialise(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.ndim == 1:
            nn.init.zeros_(parameter)


# --- what is learnt, and what is found ----------------------------------------------------------------------------


def targets(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each anchor is for, and whose it is.

    Parameters
    ----------
    boxes : ndarray, shape (N, n, 4)
        Those of the n digits in each image.

    Returns
    -------
    kinds : int64 ndarray, shape (N, 2304)
        1 if the anchor overlaps with a digit's box by 0.5 or more, or better than any other anchor does; 0 if it
        overlaps with each by less than 0.3; -1, and it does not count, if it is in between.
    owners : int64 ndarray, shape (N, 2304)
        The digit that it overlaps most with, or better than any other anchor does: 0 to n - 1.
    """
    overlap = iou(anchors(), boxes)
    owners, most = overlap.argmax(axis=2), overlap.max(axis=2)
    kinds = np.where(most >= POSITIVE, 1, np.where(most < NEGATIVE, 0, -1))
    rows, closest = np.arange(len(boxes))[:, None], overlap.argmax(axis=1)
    kinds[rows, closest], owners[rows, closest] = 1, np.arange(boxes.shape[1])
    return kinds, owners


def proposal_loss(output: Tensor, boxes: np.ndarray) -> Tensor:
    """Binary cross-entropy of "has this anchor a digit?" plus the smooth L1 loss of the boxes of those that have.

    The few anchors with a digit weigh as much as all that have none, so that none need be drawn at random. The smooth
    L1 loss (beta 1/9, as in implementations of Faster R-CNN) is summed over t_x, t_y, t_w, t_h and averaged over
    anchors.

    Parameters
    ----------
    output : Tensor, shape (N, 2304, 5)
        Of a `RegionProposalNetwork`, on the CPU.
    boxes : ndarray, shape (N, n, 4)
    """
    kinds, owners = targets(boxes)
    positive = kinds == 1
    weights = sum(0.5 * part / max(part.sum(), 1) for part in (positive, kinds == 0)).astype(output.dtype)
    scores = F.binary_cross_entropy_with_logits(output[:, :, 0], positive.astype(output.dtype), reduction="none")
    image, anchor = positive.nonzero()
    wanted = encode(boxes[image, owners[positive]], anchors()[anchor]).astype(output.dtype)
    deltas = output[image, anchor][:, 1:]
    return (scores * weights).sum() + F.smooth_l1_loss(deltas, wanted, "sum", beta=1 / 9) * (1 / len(image))


def proposals(output: np.ndarray, most: int, threshold: float = 0.5) -> np.ndarray:
    """The boxes in which the network believes most, after non-maximum suppression.

    Parameters
    ----------
    output : ndarray, shape (N, 2304, 5)
        Of a `RegionProposalNetwork`.
    most, threshold
        As in `non_maximum_suppression`.

    Returns
    -------
    float64 ndarray, shape (N, most, 4)
        The best first; zeros if there are fewer.
    """
    found = np.zeros((len(output), most, 4))
    for image, boxes, scores in zip(found, decode(output[..., 1:], anchors()), output[..., 0], strict=True):
        kept = non_maximum_suppression(boxes, scores, threshold, most)
        image[: len(kept)] = boxes[kept]
    return found
