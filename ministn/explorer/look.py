"""What the page shows, computed by the engine: the warped image, the grid, and the gradient of one output pixel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministn import functional as F
from ministn.autodiff import Tensor
from ministn.data import mnist, strokes
from ministn.explorer.network import TrainedNetwork
from ministn.kernels._coordinates import pixel_centres, to_pixels
from ministn.nn import transforms
from ministn.viz import decompose, sampling_grid

SIDE = 28  # rows and columns of a digit
TRANSFORMS = ("affine", "projective", "tps")
LARGEST_PARAMETER = 10.0
EACH = 8  # digits to pick from, of each class
CELLS = 7  # squares per side of the drawn grid
FAR = 4  # input sizes beyond which a curved line is not drawn: it may run to a horizon


class RequestError(ValueError):
    """A request that cannot be answered; the message says what was expected and what came."""


def load_digits(data_dir: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, str]:
    """Digits to pick from, shape (10, EACH, 28, 28) and of uint8, and where they are from.

    MNIST's test digits, if there is a folder with them (`data_dir` or ``MINISTN_DATA``) or a training has fetched them
    before; else digits that the package draws. Nothing is fetched.

    Raises
    ------
    DataError
        If a folder was named and is not right.
    """
    folder = mnist.user_folder(data_dir)
    if folder is None and all((mnist.cache_folder() / name).exists() for name in mnist.SHA256):
        folder = mnist.cache_folder()
    if folder is None:
        images = strokes.draw(np.repeat(np.arange(10), EACH), np.random.default_rng(0))
        return images.reshape(10, EACH, SIDE, SIDE), "drawn by ministn"
    dataset = mnist.load(folder)
    places = [np.flatnonzero(dataset.test_labels == digit)[:EACH] for digit in range(10)]
    return dataset.test_images[np.array(places)], "MNIST test digits"


class Explorer:
    """Answers the page's questions.

    Parameters
    ----------
    digits : (uint8 array (10, EACH, 28, 28), str)
        What `load_digits` returned.
    network : TrainedNetwork, optional
    """

    def __init__(self, digits: tuple[np.ndarray, str], network: TrainedNetwork | None = None) -> None:
        self.images, self.source = digits
        self.network = network
        self.mean, self.std = (0.0, 1.0) if network is None else (network.mean, network.std)
        self.canvas, self.output_size = (SIDE, SIDE) if network is None else (network.canvas, network.output_size)

    def warm_up(self) -> None:
        """Ask for everything once, so that no question waits for the compiler."""
        request: dict[str, Any] = {"image": self.images[0, 0].ravel().tolist(), "turn": [0], "pixel": [0, 0]}
        for name in TRANSFORMS:
            self.look(request | {"by": "hand", "transform": name, "parameters": transforms.get(name).identity.tolist()})
        if self.network is not None:
            self.look(request | {"by": "network"})

    def start(self) -> dict[str, Any]:
        """What the page needs once: digits, transforms with examples of their parameters, and what network there is."""
        return {
            "digits": self.images.reshape(*self.images.shape[:2], -1).tolist(),
            "source": self.source,
            "network": self.network and self.network.description,
            "outputSize": self.output_size,
            "examples": _examples(),
        }

    def look(self, request: dict[str, Any]) -> dict[str, Any]:
        """Warp a digit and differentiate one pixel of the result.

        Parameters
        ----------
        request : dict
            ``image``: 784 numbers from 0 to 255, row by row. ``turn``: [degrees] by which the digit is turned clockwise
            before anything else. ``by``: "hand" or "network", which decides on the parameters; by hand there are also
            ``transform``, a name in `TRANSFORMS`, and ``parameters``, the numbers it takes. ``pixel``: [row, column] of
            the output.

        Returns
        -------
        dict
            ``input``, ``output``: their ``size``, and ``pixels`` from 0 to 255. ``transform``, ``parameters``, and the
            ``angle`` in degrees by which an affine one turns the grid clockwise. ``grid``: where each output pixel
            looks, and ``lines`` between, in input pixels with 0 in the middle of the first one. ``probabilities`` of
            the ten digits; None without a network. ``pixel``: the ``value`` of the chosen one, from 0 to 1, and its
            place ``target`` in the output, from -1 to 1; the point ``at`` which it looks, and the four ``taps`` there;
            the ``slope``, the derivative of the value by that point's x and y, in input pixels; and the ``gradient`` by
            the parameters.

        Raises
        ------
        RequestError
            If a part of the request is missing or is not that.
        """
        image = Tensor(_numbers_of(request, "image", SIDE * SIDE, 0, 255).reshape(1, 1, SIDE, SIDE) / np.float32(255))
        (turn,) = _numbers_of(request, "turn", 1, -180, 180)
        row, column = _numbers_of(request, "pixel", 2, 0, self.output_size - 1, whole=True).astype(int).tolist()
        by = _choice_of(request, "by", ("hand", "network"))

        source = Tensor(self._placed(image, float(turn)).data, requires_grad=True)
        normalised = (source - self.mean) * (1 / self.std)
        if by == "hand":
            name = _choice_of(request, "transform", TRANSFORMS)
            transform = transforms.get(name)
            numbers = _numbers_of(
                request, "parameters", transform.num_parameters, -LARGEST_PARAMETER, LARGEST_PARAMETER
            )
        elif self.network is None:
            raise RequestError("by: expected 'hand', as no run was given, got 'network'")
        else:
            name = self.network.transform
            transform = transforms.get(name)
            numbers = self.network.parameters(normalised.detach())
        parameters = Tensor(numbers[None], requires_grad=True)
        theta = transform.theta(parameters)
        grid = transform.grid(theta, (1, 1, self.output_size, self.output_size))
        grid.retain_grad()
        sampled = F.grid_sample(normalised, grid)
        warped = sampled * self.std + self.mean  # pixels from 0 to 1 again; what lies outside the input is `mean`

        value = warped[0, 0, row, column]
        value.backward()

        points = to_pixels(grid.data[0], self.canvas, align_corners=False)
        lines = sampling_grid(theta.data[0], (self.canvas, self.canvas), CELLS, transform)
        return {
            "input": _picture(source.data),
            "output": _picture(warped.data),
            "transform": name,
            "parameters": _numbers(numbers),
            "angle": float(decompose(theta.data[0])["angle"]) if name == "affine" else None,
            "grid": self._in_sight(points.reshape(-1, 2)),
            "lines": [self._in_sight(line) if transform.matrix_rows != 2 else _numbers(line, 2) for line in lines],
            "pixel": {
                "row": row,
                "column": column,
                "value": _numbers(value.data),
                "target": [_numbers(pixel_centres(self.output_size, False, np.float32)[k], 4) for k in (column, row)],
                "at": _numbers(points[row, column], 4),
                "taps": self._taps(source, points[row, column]),
                # by a step of one input pixel, which is 2 / canvas in the grid's own units
                "slope": _numbers(_gradient(grid)[0, row, column] * 2 / self.canvas),
                "gradient": _numbers(_gradient(parameters)[0]),
            },
            "probabilities": self.network and _numbers(self.network.probabilities(sampled.detach())),
        }

    def _placed(self, image: Tensor, degrees: float) -> Tensor:
        """The digit in the middle of the network's canvas, turned clockwise."""
        before = (self.canvas - SIDE) // 2
        placed = np.zeros((1, 1, self.canvas, self.canvas), np.float32)
        placed[:, :, before : before + SIDE, before : before + SIDE] = image.data
        rotation = transforms.Rotation()
        # the picture turns against its grid, and a positive angle turns the grid clockwise
        theta = rotation.theta(Tensor(np.array([[-np.radians(degrees)]], np.float32)))
        return F.grid_sample(Tensor(placed), rotation.grid(theta, placed.shape))

    def _taps(self, source: Tensor, at: np.ndarray) -> list[dict[str, Any]]:
        """The four pixels around the point `at`, in reading order, and what they weigh.

        The weight of a pixel is the derivative of the output pixel by it, which `grid_sample` has passed back to the
        input. A pixel outside the input has no derivative: its weight is the bilinear kernel's own, its value `mean`.
        """
        size, taps = self.canvas, []
        for y in (np.floor(at[1]), np.floor(at[1]) + 1):
            for x in (np.floor(at[0]), np.floor(at[0]) + 1):
                row, column = int(y), int(x)
                inside = 0 <= row < size and 0 <= column < size
                if inside:
                    weight, value = _gradient(source)[0, 0, row, column], source.data[0, 0, row, column]
                else:
                    weight, value = (1 - abs(at[0] - x)) * (1 - abs(at[1] - y)), self.mean
                taps.append(
                    {
                        "row": row,
                        "column": column,
                        "weight": _numbers(weight),
                        "value": _numbers(value),
                        "inside": inside,
                    }
                )
        return taps

    def _in_sight(self, points: np.ndarray) -> list[list[float] | None]:
        """Points (P, 2) in input pixels; None for one that is so far outside that no line shall run there."""
        near = np.abs(points - self.canvas / 2).max(axis=1) < FAR * self.canvas
        return [point if is_near else None for point, is_near in zip(_numbers(points, 2), near, strict=True)]


# --- helpers ----------------------------------------------------------------------------------------------------------


def _examples() -> dict[str, dict[str, list[float]]]:
    """Parameters to start from: of each transform the identity, and a few that show what it can do."""

    def matrix(transform: transforms.Transform, *numbers: float) -> np.ndarray:
        theta: np.ndarray = transform.theta(Tensor(np.array([numbers], np.float32))).data.ravel()
        return theta

    affine, spline = transforms.Affine(), transforms.ThinPlateSpline()
    points = spline.control_points
    inner = (np.abs(points) < 1).all(axis=1, keepdims=True)  # the outer ones stay where they are
    examples: dict[str, dict[str, np.ndarray]] = {
        "affine": {
            "identity": affine.identity,
            "turn": matrix(transforms.Rotation(), np.radians(30)),
            "enlarge": matrix(transforms.Attention(), 0.6, 0, 0),
            "lean": matrix(affine, 1, 0.4, 0, 0, 1, 0),
            "mirror": matrix(affine, -1, 0, 0, 0, 1, 0),
        },
        "projective": {
            "identity": transforms.Projective().identity,
            "tilt back": np.array([1, 0, 0, 0, 1, 0, 0, 0.4]),
            "tilt sideways": np.array([1, 0, 0, 0, 1, 0, 0.4, 0]),
        },
        "tps": {
            "identity": spline.identity,
            "magnifier": points * np.where(inner, 0.5, 1),
            "wave": points + 0.2 * np.sin(np.pi * points[:, ::-1]) * (1, 0),
        },
    }
    return {name: {label: _numbers(np.ravel(p)) for label, p in row.items()} for name, row in examples.items()}


def _numbers_of(
    request: dict[str, Any], key: str, count: int, low: float, high: float, whole: bool = False
) -> np.ndarray:
    """The list `key` of the request, as float32."""
    got = request.get(key)
    if not isinstance(got, list) or len(got) != count:
        shown = f"a list of {len(got)}" if isinstance(got, list) else _shown(got)
        raise RequestError(f"{key}: expected a list of {count} numbers, got {shown}")
    for number in got:
        # a bool is no number here, and NaN lies between none
        if type(number) not in ((int,) if whole else (int, float)) or not low <= number <= high:
            kind = "whole numbers" if whole else "numbers"
            raise RequestError(f"{key}: expected {kind} from {low:g} to {high:g}, got {_shown(number)}")
    return np.array(got, np.float32)


def _choice_of(request: dict[str, Any], key: str, choices: Sequence[str]) -> str:
    got = request.get(key)
    if got not in choices:
        raise RequestError(f"{key}: expected one of {', '.join(map(repr, choices))}, got {_shown(got)}")
    return str(got)


def _shown(got: Any) -> str:
    """What came, in a few characters."""
    text = repr(got)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _gradient(tensor: Tensor) -> np.ndarray:
    assert tensor.grad is not None
    gradient: np.ndarray = tensor.grad.data
    return gradient


def _picture(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels (1, 1, H, H) from 0 to 1, as the page draws them."""
    return {"size": pixels.shape[-1], "pixels": np.rint(np.clip(pixels, 0, 1) * 255).astype(int).ravel().tolist()}


def _numbers(array: np.ndarray, digits: int = 6) -> Any:
    """An array as a number or a list of them, with so many digits behind the point."""
    return np.round(np.asarray(array, np.float64), digits).tolist()
