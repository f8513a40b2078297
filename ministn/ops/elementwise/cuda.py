"""The formulas of `reference` on the GPU, each in one pass over memory."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ministn.backend import Array, array_module
from ministn.kernels._cuda import before_each_run, launch, room_for_each_run
from ministn.ops.elementwise import reference

_WORD = 2**64


def relu(x: Array) -> Array:
    """As `reference.relu`."""
    if x.dtype.kind != "f":
        return reference.relu(x)
    y, x = array_module(x).empty(x.shape, x.dtype), array_module(x).ascontiguousarray(x)
    launch(__package__, "relu", x.size, y, x, np.int64(x.size))
    return y


def relu_gradient(grad_output: Array, y: Array) -> Array:
    """As `reference.relu_gradient`."""
    library = array_module(y)
    dx, g, y = library.empty(y.shape, y.dtype), library.ascontiguousarray(grad_output), library.ascontiguousarray(y)
    launch(__package__, "relu_gradient", y.size, dx, g, y, np.int64(y.size))
    return dx


def scaled(x: Array, scale: Array) -> Array:
    """As `reference.scaled`; in one pass for a scale of each number, or of each channel of an image."""
    if scale.shape not in (x.shape, (*x.shape[:2], 1, 1)):
        return reference.scaled(x, scale)
    library = array_module(x)
    y, x, scale = library.empty(x.shape, x.dtype), library.ascontiguousarray(x), library.ascontiguousarray(scale)
    launch(__package__, "scaled", x.size, y, x, scale, np.int64(x.size), np.int64(x.size // max(scale.size, 1)))
    return y


def with_channels(x: Array, channels: Array) -> Array:
    """As `reference.with_channels`; C-contiguous."""
    library, (N, C, H, W) = array_module(x), x.shape
    y = library.empty((N, C + len(channels), H, W), x.dtype)
    x, channels = library.ascontiguousarray(x), library.ascontiguousarray(channels)
    sizes = np.int64(y.size), C, len(channels), np.int64(H * W)
    launch(__package__, "with_channels", y.size, y, x, channels, *sizes)
    return y


def add_scaled_(x: Array, factor: float, y: Array) -> None:
    """As `reference.add_scaled_`."""
    if not x.flags.c_contiguous or x.shape != y.shape:
        return reference.add_scaled_(x, factor, y)
    launch(__package__, "add_scaled", x.size, x, float(factor), array_module(y).ascontiguousarray(y), np.int64(x.size))


def scale_and_add_(x: Array, factor: float, y: Array) -> None:
    """As `reference.scale_and_add_`."""
    if not x.flags.c_contiguous or x.shape != y.shape:
        return reference.scale_and_add_(x, factor, y)
    launch(
        __package__, "scale_and_add", x.size, x, float(factor), array_module(y).ascontiguousarray(y), np.int64(x.size)
    )


def adam_(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    beta1: float,
    beta2: float,
    rate: float,
    scale: float,
    eps: float,
    decay: float = 1.0,
) -> None:
    """As `reference.adam_`."""
    others_fit = all([array.flags.c_contiguous and array.shape == w.shape for array in (m, v)]) and g.shape == w.shape
    if not (w.flags.c_contiguous and others_fit):
        return reference.adam_(w, m, v, g, beta1, beta2, rate, scale, eps, decay)
    numbers = [float(number) for number in (1 - beta1, beta2, 1 - beta2, rate, scale, eps, decay)]
    launch(__package__, "adam", w.size, w, m, v, array_module(g).ascontiguousarray(g), *numbers, np.int64(w.size))


def random_mask(generator: np.random.Generator, shape: tuple[int, ...], p: float, factor: float, like: Array) -> Array:
    """As `reference.random_mask`: the device draws what the generator would, which is then moved past it."""
    if not isinstance(generator.bit_generator, np.random.PCG64):
        return reference.random_mask(generator, shape, p, factor, like)
    mask = room_for_each_run(array_module(like), shape, like.dtype)
    before_each_run(functools.partial(_draw, mask, generator, p, factor))
    return mask


def _draw(mask: Array, generator: np.random.Generator, p: float, factor: float) -> None:
    """Fill `mask` with what `generator` would draw next."""
    before: dict[str, Any] = {**generator.bit_generator.state}
    state, increment = before["state"]["state"], before["state"]["inc"]
    left_over = before["uinteger"] if before["has_uint32"] else -1
    words = (*divmod(state, _WORD), *divmod(increment, _WORD))
    threshold = math.ceil(float(np.float32(p)) * 2**24)  # of 24 random bits
    arguments = *(np.uint64(word) for word in words), np.int64(left_over), threshold, float(factor), np.int64(mask.size)
    launch(__package__, "random_mask", mask.size, mask, *arguments)
    _move_past(generator, before, mask.size)


def _move_past(generator: np.random.Generator, before: dict[str, Any], count: int) -> None:
    """Bring the generator from state `before` to where drawing `count` numbers of float32 would have brought it."""
    halves = count - before["has_uint32"]  # of outputs yet to come
    if halves <= 0:
        generator.bit_generator.state = {**before, "has_uint32": before["has_uint32"] - count}
        return
    generator.bit_generator.advance((halves + 1) // 2)  # type: ignore[attr-defined]
    after = generator.bit_generator.state
    high, low = divmod(after["state"]["state"], _WORD)
    mixed, turn = high ^ low, high >> 58
    last_output = (mixed >> turn | mixed << (64 - turn)) % _WORD
    generator.bit_generator.state = {**after, "has_uint32": halves % 2, "uinteger": last_output >> 32}
