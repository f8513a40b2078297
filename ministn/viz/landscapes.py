"""The loss over poses: as a landscape, with the way that gradient descent takes there, and from how far it finds home.

What computes is apart from what draws. All gradients come from ministn's own backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.nn.transforms import Affine, Compose
from ministn.viz.pictures import BLUE, GREY, GRID_COLOUR, TOP_COLOUR, VERMILION, _figure, _note, _title, _to_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSE = ("angle", "shift_x", "shift_y")
GREEN, PURPLE = "#009E73", "#CC79A7"
_LABELS = {
    "angle": "angle of the grid, in degrees",
    "shift_x": "shift of the grid to the right, in pixels",
    "shift_y": "shift of the grid down, in pixels",
}
_UNITS = {"angle": "°", "shift_x": " px", "shift_y": " px"}
_BATCH = 256  # poses at a time

Sampler = Callable[[Tensor, Tensor], Tensor]  # images (N, 1, H, W) and theta (N, 2, 3) to warped images


# --- what is computed ---------------------------------------------------------------------------------------------


class PoseLoss:
    r"""A loss of theta, as a function of the pose, with its gradient.

    A pose is where a transform looks: (angle, shift_x, shift_y), in degrees and in pixels of the input,

    .. math::
        \theta = \begin{pmatrix}
        \cos\varphi & -\sin\varphi & 2 s_x / W \\
        \sin\varphi & \cos\varphi & 2 s_y / H
        \end{pmatrix}

    so (0, 0, 0) is the identity. On a picture that is not square the rotation is one of normalised coordinates.

    Parameters
    ----------
    loss : callable
        theta (N, 2, 3), a float64 Tensor, to a Tensor (N,): a loss for each, that does not depend on the others.
    size : (int, int)
        (H, W) of the input, in pixels.

    Attributes
    ----------
    units : float64 array, shape (3,)
        A degree and a pixel in what theta is made of: radians, and half widths and heights of the input.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], size: tuple[int, int]) -> None:
        self.loss, (height, width) = loss, size
        self.units = np.array([np.pi / 180, 2 / width, 2 / height])
        self._transform = Compose("rotation", "translation")

    def theta(self, poses: np.ndarray) -> np.ndarray:
        """The matrix of each pose: (N, 3) to (N, 2, 3)."""
        return self._transform.theta(Tensor(np.asarray(poses, np.float64) * self.units)).numpy()

    def __call__(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss of each pose, and its gradient per degree and per pixel: (N, 3) to (N,) and (N, 3)."""
        poses = np.asarray(poses, np.float64)
        if poses.ndim != 2 or poses.shape[1] != 3:
            raise ValueError(f"PoseLoss: expected poses (N, 3), each (angle, shift_x, shift_y), got {poses.shape}")
        losses, gradients = [], []
        for start in range(0, len(poses), _BATCH):
            parameters = Tensor(poses[start : start + _BATCH] * self.units, requires_grad=True)
            loss = self.loss(self._transform.theta(parameters))
            if loss.shape != (len(parameters),):
                raise ValueError(f"PoseLoss: expected a loss of shape ({len(parameters)},), got {loss.shape}")
            loss.sum().backward()
            assert parameters.grad is not None
            losses.append(loss.detach().numpy())
            gradients.append(parameters.grad.numpy() * self.units)
        return np.concatenate(losses), np.concatenate(gradients)


def matching_loss(image: np.ndarray, target: np.ndarray, sampler: Sampler = F.spatial_transform) -> PoseLoss:
    r"""How far the warped image is from the target.

    .. math:: L(\theta) = \text{mean of } |S(U, \theta) - S(V, \text{identity})|^2

    with S the sampler, through which the target V is seen, too.

    Parameters
    ----------
    image, target : float arrays, shape (H, W)
        U and V.
    sampler : callable
        Images (N, 1, H, W) and theta (N, 2, 3) to warped images (N, C, H', W'); see `blurred` and `multi_sampled`.
    """
    image, target = np.asarray(image, np.float64), np.asarray(target, np.float64)
    if image.ndim != 2 or image.shape != target.shape:
        raise ValueError(f"matching_loss: expected two images of one shape (H, W), got {image.shape}, {target.shape}")
    goal = sampler(Tensor(target[None, None]), Tensor(np.eye(3)[None, :2]))

    def loss(theta: Tensor) -> Tensor:
        error = sampler(_copies(image, len(theta)), theta) - goal
        return (error * error).mean((1, 2, 3))

    return PoseLoss(loss, image.shape)


def classification_loss(
    classifier: Callable[[Tensor], Tensor], image: np.ndarray, label: int, *, mean: float = 0.0, std: float = 1.0
) -> PoseLoss:
    """What a classifier loses by an image that a transform has warped for it: -log p(label).

    Parameters
    ----------
    classifier : Module or callable
        float32 images (N, 1, H, W) to log-probabilities (N, K). A Module must be in its evaluation mode.
    image : uint8 array, shape (H, W)
    label : int
    mean, std : float
        The normalisation that the classifier was trained with, for pixels from 0 to 1. Outside the image the transform
        reads the mean grey.
    """
    pixels = _to_input(classifier, np.asarray(image)[None], mean, std).data[0, 0]

    def loss(theta: Tensor) -> Tensor:
        warped = F.spatial_transform(_copies(pixels, len(theta)), theta.astype(np.float32))
        labels = np.full(len(theta), label)
        return F.nll_loss(classifier(warped), labels, reduction="none").astype(np.float64)

    return PoseLoss(loss, image.shape)


def blurred(sigma: float, sampler: Sampler = F.spatial_transform) -> Sampler:
    """A sampler that reads a blurred image: every pixel has become the mean of its neighbours, with Gaussian weights.

    Parameters
    ----------
    sigma : float
        Standard deviation of the Gaussian, in pixels; it is cut off at three of them.
    sampler : callable
        What samples the blurred image.
    """
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()

    def sample(images: Tensor, theta: Tensor) -> Tensor:
        along = Tensor(weights.reshape(1, 1, 1, -1).astype(images.dtype))
        down = Tensor(weights.reshape(1, 1, -1, 1).astype(images.dtype))
        images = F.conv2d(images, along, padding=(0, radius))
        return sampler(F.conv2d(images, down, padding=(radius, 0)), theta)

    return sample


def multi_sampled(count: int, spread: float = 1.0) -> Sampler:
    """A sampler whose pixels are the means of `count` x `count` bilinear samples around their points.

    Parameters
    ----------
    count : int
        Samples along each axis.
    spread : float
        Side of the square that they share out evenly, in pixels of the output. With 1, the default, it is the pixel
        itself: an output `count` times as large, average pooled.
    """
    places = ((np.arange(count) + 0.5) / count - 0.5) * spread

    def sample(images: Tensor, theta: Tensor) -> Tensor:
        height, width = images.shape[2:]
        warped = []
        for down, right in itertools.product(places, repeat=2):
            shift = np.array([[1, 0, 2 * right / width], [0, 1, 2 * down / height]], theta.dtype)
            shifts = Tensor(np.broadcast_to(shift, theta.shape))
            warped.append(F.spatial_transform(images, Affine().compose(theta, shifts)))
        return sum(warped[1:], warped[0]) / len(warped)

    return sample


@dataclass(frozen=True)
class Landscape:
    """A loss over two of the three numbers of a pose.

    Attributes
    ----------
    along : two of "angle", "shift_x", "shift_y"
        What x and y are.
    x, y : float arrays, shapes (Q,) and (P,)
        In degrees or pixels.
    loss : float array, shape (P, Q)
    """

    along: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray


def landscape(
    loss: PoseLoss, along: tuple[str, str], x: np.ndarray, y: np.ndarray, at: Sequence[float] = (0, 0, 0)
) -> Landscape:
    """The loss at the points of a lattice.

    Parameters
    ----------
    loss : PoseLoss
    along : two of "angle", "shift_x", "shift_y"
        What `x` and `y` are.
    x, y : float arrays, shapes (Q,) and (P,)
        In degrees or pixels.
    at : three floats
        The pose whose third number all points have.
    """
    columns = _columns("landscape", along)
    poses = np.tile(np.asarray(at, np.float64), (len(y), len(x), 1))
    poses[..., columns[0]], poses[..., columns[1]] = np.meshgrid(x, y)
    return Landscape(along, np.asarray(x), np.asarray(y), loss(poses.reshape(-1, 3))[0].reshape(len(y), len(x)))


def descend(
    loss: PoseLoss, start: np.ndarray, steps: int, learning_rate: float, along: Sequence[str] = POSE
) -> np.ndarray:
    r"""The path of gradient descent, in the parameters that a localisation network would put out.

    .. math:: p_{k+1} = p_k - \eta \, \partial L / \partial p_k, \qquad p = (\varphi, t_x, t_y)

    in radians and in half widths and heights of the input.

    Parameters
    ----------
    loss : PoseLoss
    start : float array, shape (3,) or (N, 3)
        A pose, or several, each of which goes its own way.
    steps : int
    learning_rate : float
    along : of "angle", "shift_x", "shift_y"
        What may change; the rest stays as in `start`.

    Returns
    -------
    array, shape (steps + 1, 3) or (steps + 1, N, 3)
        Poses, in degrees and pixels, beginning with `start`.
    """
    moves = np.isin(np.arange(3), _columns("descend", along))
    path = [np.asarray(start, np.float64)]
    for _ in range(steps):
        gradient = loss(path[-1].reshape(-1, 3))[1].reshape(path[-1].shape)
        path.append(path[-1] - learning_rate * moves * gradient / loss.units**2)  # once for each of: dL, dp
    return np.array(path)


@dataclass(frozen=True)
class Basin:
    """A loss and its slope along a line through the goal, and how far the slope leads there.

    Attributes
    ----------
    along : "angle", "shift_x" or "shift_y"
    offsets : float array, shape (Q,)
        From the goal, in degrees or pixels, rising.
    loss : float array, shape (Q,)
    slope : float array, shape (Q,)
        Its derivative, per degree or pixel.
    """

    along: str
    offsets: np.ndarray
    loss: np.ndarray
    slope: np.ndarray

    @property
    def reach(self) -> tuple[float, float]:
        """The first and the last offset between which every slope leads to the goal, and none is flat."""
        ends = []
        for sign in (-1, 1):
            outwards = np.flatnonzero(sign * self.offsets > 0)[::sign]
            stops = np.flatnonzero(sign * self.slope[outwards] <= 0)
            good = outwards[: stops[0]] if len(stops) else outwards
            ends.append(float(self.offsets[good[-1]]) if len(good) else 0.0)
        return ends[0], ends[1]

    @property
    def width(self) -> float:
        """Of the `reach`, in degrees or pixels."""
        low, high = self.reach
        return high - low


def measure_basin(loss: PoseLoss, along: str, offsets: np.ndarray, goal: Sequence[float] = (0, 0, 0)) -> Basin:
    """Loss and slope along one number of the pose.

    Parameters
    ----------
    loss : PoseLoss
    along : "angle", "shift_x" or "shift_y"
    offsets : float array, shape (Q,)
        From the goal, in degrees or pixels, in rising order. A slope is taken *at* an offset: between pixels is better
        than on them, where bilinear sampling has kinks.
    goal : three floats
        The pose that is right.
    """
    (column,) = _columns("measure_basin", [along])
    offsets = np.asarray(offsets, np.float64)
    if np.any(np.diff(offsets) <= 0) or not offsets[0] < 0 < offsets[-1]:
        raise ValueError("measure_basin: expected offsets in rising order on both sides of 0")
    poses = np.tile(np.asarray(goal, np.float64), (len(offsets), 1))
    poses[:, column] += offsets
    values, gradients = loss(poses)
    return Basin(along, offsets, values, gradients[:, column])


# --- pictures -----------------------------------------------------------------------------------------------------


def loss_landscape(
    landscape: Landscape,
    paths: Mapping[str, np.ndarray] | None = None,
    goal: Sequence[float] | None = None,
    *,
    data: str = "",
) -> Figure:
    """The loss as contours, and the paths that were taken over it.

    Parameters
    ----------
    landscape : Landscape
        From the function of that name.
    paths : mapping of arrays, shape (S + 1, 3), optional
        Poses one after another, under the name of each path: of `descend`, or of a training.
    goal : three floats, optional
        The right pose, to be marked.
    data : str
        Which image and loss this is, for the title.
    """
    columns = _columns("loss_landscape", landscape.along)
    figure = _figure(6.4, 5.2)
    axes = figure.subplots()
    shades = axes.contourf(landscape.x, landscape.y, landscape.loss, levels=16, cmap="Greys_r")
    axes.contour(shades, colors="white", linewidths=0.4)
    figure.colorbar(shades, label="loss: dark is low")
    colours = itertools.cycle((VERMILION, GRID_COLOUR, GREEN, PURPLE))
    for (name, path), colour in zip((paths or {}).items(), colours, strict=False):
        x, y = (np.asarray(path)[:, column] for column in columns)
        axes.plot(x, y, color=colour, marker=".", markersize=4, linewidth=1.4, label=name)
        axes.plot(x[0], y[0], color=colour, marker="o", markersize=8, markeredgecolor="white")
        axes.plot(x[-1], y[-1], color=colour, marker="s", markersize=8, markeredgecolor="white")
    if goal is not None:
        right = [goal[column] for column in columns]
        axes.plot(*right, "*", color=TOP_COLOUR, markersize=15, markeredgecolor="black", label="the right pose")
    axes.set(xlabel=_LABELS[landscape.along[0]], ylabel=_LABELS[landscape.along[1]])
    axes.set(xlim=landscape.x[[0, -1]], ylim=landscape.y[[0, -1]])
    if paths or goal is not None:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    if paths:
        axes.set_title("Each dot is a step; a path runs from its circle to its square.", fontsize="small", color="0.3")
    _title(figure, "The loss over poses", data)
    return figure


def basin(basins: Mapping[str, Basin], *, data: str = "") -> Figure:
    """Loss, slope and basin of several samplers: from how far does the slope lead to the goal?

    Parameters
    ----------
    basins : mapping of Basin
        Along the same line, under the name of each sampler, at most five.
    data : str
        Which image this is, for the title.
    """
    colours = (BLUE, VERMILION, GREEN, PURPLE, TOP_COLOUR)
    if len({measured.along for measured in basins.values()}) != 1 or len(basins) > len(colours):
        raise ValueError(f"basin: expected one to {len(colours)} basins along the same axis")
    figure = _figure(8.5, 5.2 + 0.25 * len(basins))
    heights = [3, 3, 0.5 + 0.4 * len(basins)]
    above, below, bars = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    for row, (measured, colour) in enumerate(zip(basins.values(), colours, strict=False)):
        offsets, (low, high) = measured.offsets, measured.reach
        above.plot(offsets, measured.loss / measured.loss.max(), color=colour)
        below.plot(offsets, measured.slope / np.abs(measured.slope).max(), color=colour, linewidth=1)
        bars.barh(row, high - low, left=low, color=colour, height=0.6)
        text = f"{low:z.3g} to {high:z.3g}{_UNITS[measured.along]}".replace("-", "\N{MINUS SIGN}")
        bars.text(1.01, row, text, va="center", fontsize="small", transform=bars.get_yaxis_transform())
    for axes in (above, below, bars):
        axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    below.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    above.set_ylabel("loss /\nits maximum")
    below.set_ylabel("slope /\nits maximum")
    bars.set_yticks(range(len(basins)), list(basins))
    bars.set_ylim(len(basins) - 0.5, -0.5)
    along = next(iter(basins.values())).along
    bars.set_xlabel(f"{_LABELS[along]}, from the goal")
    _note(figure, "Basin: around the goal, where every slope leads to it: below 0 on its left, above 0 on its right.")
    _title(figure, "How far the gradient sees", data)
    return figure


# --- helpers ------------------------------------------------------------------------------------------------------


def _columns(name: str, along: Sequence[str]) -> list[int]:
    """Where these numbers stand in a pose."""
    if isinstance(along, str) or len(set(along)) != len(along) or not set(along) <= set(POSE):
        raise ValueError(f"{name}: expected different ones of {', '.join(POSE)}, got {along!r}")
    return [POSE.index(part) for part in along]


def _copies(image: Any, count: int) -> Tensor:
    """An image (H, W) as a batch (count, 1, H, W)."""
    return Tensor(np.tile(image, (count, 1, 1, 1)))
