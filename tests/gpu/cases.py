"""One small computation for each family, forward and backward, that reaches every kernel it has: what the rungs of the
ladder run, and what a fault in a kernel has to change.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np

from ministn import Tensor, backend
from ministn import functional as F
from ministn.kernels import _cuda
from ministn.kernels.thin_plate_spline_grid import regular_control_points

Arrays = list[np.ndarray]

# A product and its sum may be fused or not, and sums are added in another order: some roundings of numbers up to 10.
TOLERANCES = {np.dtype(np.float32): 3e-5, np.dtype(np.float64): 3e-14}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def gradients(operation: Callable[..., Tensor], *inputs: np.ndarray, dtype: type) -> Arrays:
    """The output of ``operation(*inputs)`` and the gradients of all inputs, for a random gradient of the output.

    The first input and the gradient have their axes in reverse order in memory: not C-contiguous, as kernels want it.
    """
    tensors = [Tensor(array.astype(dtype), requires_grad=True) for array in (np.asfortranarray(inputs[0]), *inputs[1:])]
    output = operation(*tensors)
    output.backward(np.asfortranarray(draw(*output.shape, seed=9).astype(dtype)))
    return [output.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]


def conv2d(dtype: type) -> Iterator[Arrays]:
    for shape, filters, stride, padding, dilation, in_tiles in [
        ((3, 2, 7, 9), (5, 2, 3, 2), 1, 0, 1, False),
        ((2, 3, 8, 5), (4, 3, 3, 3), (2, 1), (1, 2), (1, 2), False),
        ((2, 17, 9, 13), (19, 17, 3, 3), 1, 1, 1, True),  # more channels, pixels and taps than one tile
        ((1, 9, 7, 8), (35, 9, 2, 2), (1, 2), 0, 1, True),  # many channels: the larger tiles
    ]:
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        inputs = draw(*shape), draw(*filters, seed=1), draw(filters[0], seed=2)
        enough = 1 if in_tiles else 10**6  # pixels, or tiles of them, for tiles to be worth it
        with mock.patch.multiple("ministn.kernels.conv2d.cuda", _BUSY=enough, _MANY=enough):
            yield gradients(lambda x, w, b, options=options: F.conv2d(x, w, b, **options), *inputs, dtype=dtype)


def linear(dtype: type) -> Iterator[Arrays]:
    """CuPy's products, and those that a graph can hold; of matrices that lie transposed, too."""
    for context in (contextlib.nullcontext, _cuda.recordable):
        with context():
            yield gradients(F.linear, draw(5, 7), draw(3, 7), draw(3), dtype=dtype)
            yield gradients(lambda x, w: F.linear(x.T, w), draw(7, 5), draw(3, 7), dtype=dtype)


def max_pool2d(dtype: type) -> Iterator[Arrays]:
    for options in ({"kernel_size": 2}, {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "relu": True}):
        yield gradients(lambda x, options=options: F.max_pool2d(x, **options), draw(2, 3, 9, 7), dtype=dtype)
    # more taps than a byte counts
    yield gradients(lambda x: F.max_pool2d(x, 17, 1), draw(1, 1, 18, 19), dtype=dtype)


def avg_pool2d(dtype: type) -> Iterator[Arrays]:
    uneven = {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "ceil_mode": True}
    for options in ({"kernel_size": 2}, uneven, {**uneven, "count_include_pad": False}):
        yield gradients(lambda x, options=options: F.avg_pool2d(x, **options), draw(2, 3, 9, 7), dtype=dtype)


def affine_grid(dtype: type) -> Iterator[Arrays]:
    for align_corners, size in (
        (False, (3, 1, 5, 13)),
        (True, (3, 1, 5, 13)),
        (False, (2, 1, 91, 93)),
    ):  # one: in parts
        operation = lambda theta, s=size, a=align_corners: F.affine_grid(theta, s, a)  # noqa: E731
        yield gradients(operation, draw(size[0], 2, 3), dtype=dtype)


def projective_grid(dtype: type) -> Iterator[Arrays]:
    """Horizons outside of the picture, large images in parts, and all points on the horizon, of either sign."""
    for align_corners, size in ((False, (3, 1, 5, 13)), (True, (2, 1, 91, 93))):
        theta = draw(size[0], 3, 3)
        theta[:, 2, 2] += 3
        operation = lambda theta, s=size, a=align_corners: F.projective_grid(theta, s, a)  # noqa: E731
        yield gradients(operation, theta, dtype=dtype)
    theta = draw(2, 3, 3)
    theta[:, 2] = [[0, 0, 1e-8], [0, 0, -1e-8]]
    yield gradients(lambda theta: F.projective_grid(theta, (2, 1, 3, 4)), theta, dtype=dtype)


def thin_plate_spline_grid(dtype: type) -> Iterator[Arrays]:
    """Control points that lie well apart: the system of points close together would magnify the rounding."""
    for rows, columns, align_corners, size in (
        (2, 3, False, (3, 1, 5, 13)),
        (4, 4, True, (3, 1, 5, 13)),
        (2, 2, False, (2, 1, 91, 93)),  # in parts
    ):
        points = regular_control_points(rows, columns) + 0.2 * draw(rows * columns, 2, seed=1)
        operation = lambda theta, s=size, a=align_corners, c=points: F.thin_plate_spline_grid(theta, c, s, a)  # noqa: E731
        yield gradients(operation, draw(size[0], rows * columns, 2), dtype=dtype)


def grid_sample(dtype: type) -> Iterator[Arrays]:
    """Points up to half an image outside, in every mode and padding, and in a fixed order too."""
    for mode, padding, align_corners in itertools.product(
        ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    ):
        options = mode, padding, align_corners
        inputs = draw(2, 3, 5, 7), 1.5 * draw(2, 4, 6, 2)
        yield gradients(lambda x, grid, options=options: F.grid_sample(x, grid, *options), *inputs, dtype=dtype)
    backend.use_deterministic_kernels(True)
    try:
        for mode in ("bilinear", "nearest", "bicubic"):
            yield gradients(lambda x, grid, mode=mode: F.grid_sample(x, grid, mode), *inputs, dtype=dtype)
    finally:
        backend.use_deterministic_kernels(False)


def spatial_transform(dtype: type) -> Iterator[Arrays]:
    for align_corners, size in ((False, (5, 7)), (True, (9, 4))):
        inputs = draw(3, 2, 5, 7), 1.2 * draw(3, 2, 3)
        operation = lambda x, theta, s=size, a=align_corners: F.spatial_transform(x, theta, s, a)  # noqa: E731
        yield gradients(operation, *inputs, dtype=dtype)


def elementwise(dtype: type) -> Iterator[Arrays]:
    x, y, scale = (draw(2, 3, 4, 5, seed=seed).astype(dtype) for seed in range(3))
    loops = backend.implementation("ministn.ops.elementwise", x)
    yield [
        loops.relu(x),
        loops.relu_gradient(y, x),
        loops.scaled(x, scale),
        loops.scaled(x, scale[:, :, :1, :1].copy()),
    ]
    yield [loops.with_channels(x, draw(2, 4, 5).astype(dtype))]
    loops.add_scaled_(x, 0.5, y)
    loops.scale_and_add_(y, 0.9, x)
    w, m, v = draw(7).astype(dtype), draw(7, seed=1).astype(dtype), draw(7, seed=2).astype(dtype) ** 2
    loops.adam_(w, m, v, draw(7, seed=3).astype(dtype), 0.9, 0.99, 0.1, 0.5, 1e-8, 0.95)
    mask = loops.random_mask(np.random.default_rng(0), (3, 311), 0.3, 2.0, x)
    yield [x, y, w, m, v, mask]


def softmax(dtype: type) -> Iterator[Arrays]:
    table, labels = draw(7, 5).astype(dtype), np.arange(7) % 5
    loops = backend.implementation("ministn.ops.softmax", table)
    yield [loops.picked(table, labels), loops.placed(table[:, 0].copy(), labels, (7, 5))]
    for axis in (1, 2):
        yield gradients(lambda x, axis=axis: F.log_softmax(x, dim=axis), draw(3, 5, 2), dtype=dtype)


def standardise(dtype: type) -> Iterator[Arrays]:
    x, g, gamma, beta = (
        array.astype(dtype) for array in (draw(3, 4, 5, 6), draw(3, 4, 5, 6, seed=1), draw(4), draw(4))
    )
    loops = backend.implementation("ministn.ops.standardise", x)
    y, mean, variance, inverse_std = loops.forward(x, gamma, beta, 1e-3)
    yield [y, mean, variance, inverse_std, *loops.backward(g, x, gamma, mean, inverse_std)]


def scores(dtype: type) -> Iterator[Arrays]:
    """Two batches, one larger than a block."""
    losses, correct, count = np.zeros(3, dtype), np.zeros(3, np.int32), np.zeros(1, np.int32)
    record_ = backend.implementation("ministn.ops.scores", losses).record_
    for rows in (5, 300):
        table, labels = draw(rows, 4).astype(dtype), np.random.default_rng(rows).integers(0, 4, rows)
        record_(losses, correct, count, draw(rows)[:1].astype(dtype), table, labels)
    yield [losses, correct, count]


def batches(dtype: type) -> Iterator[Arrays]:
    """The mini-batches of `ministn.data`: images moved by up to more than their size."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8), random.integers(0, 10, 6)
    normalised = np.linspace(-1, 2, 256).astype(dtype)
    order, shifts = random.permutation(6)[:4], random.integers(-6, 7, (4, 2), dtype=np.int32)
    shifts[0] = 0
    yield list(backend.implementation("ministn.data", images).gathered(images, labels, normalised, order, shifts))


CASES: dict[str, Callable[[type], Iterator[Arrays]]] = {
    f"ministn.{layer}.{case.__name__}": case
    for layer, cases in {
        "kernels": (
            conv2d,
            linear,
            max_pool2d,
            avg_pool2d,
            affine_grid,
            projective_grid,
            thin_plate_spline_grid,
            grid_sample,
            spatial_transform,
        ),
        "ops": (elementwise, softmax, standardise, scores),
    }.items()
    for case in cases
} | {"ministn.data": batches}


def results(package: str, dtype: type) -> list[Arrays]:
    """What the family computes, with the implementation that serves NumPy arrays at present."""
    return list(CASES[package](dtype))


def check(results: list[Arrays], expected: list[Arrays]) -> None:
    """AssertionError unless all are equal up to rounding."""
    for number, (some, others) in enumerate(zip(results, expected, strict=True)):
        for place, (got, wanted) in enumerate(zip(some, others, strict=True)):
            assert got.dtype == wanted.dtype
            if got.dtype.kind != "f":
                np.testing.assert_array_equal(got, wanted)
                continue
            scale = max(1.0, float(np.abs(wanted).max(initial=0)))
            np.testing.assert_allclose(
                got, wanted, rtol=0, atol=TOLERANCES[got.dtype] * scale, err_msg=f"computation {number}, result {place}"
            )
