"""Where samples fall: normalised coordinates become pixels, and the taps and weights of the pixels near them.

Compiled helpers of the samplers. All work on a block of samples s, with loops that the compiler turns into vectors.
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.compiled import compiled
from ministn.kernels.simd import Size, load, load_rows, register_size, store, transposed

LANES = 16  # samples in a vector
_SIZE = Size(LANES)
BLOCK = 1024  # samples that are placed at a time
PART = 1024  # samples of an output that are made together


@compiled
def parts_of(output):
    """How many parts an image has."""
    return (output.shape[2] + PART - 1) // PART


@compiled
def end_of(item, group, output):
    """The part behind the last one of a parallel iteration."""
    return min((item + 1) * group, len(output) * parts_of(output))


@compiled
def part_of(part, output):
    """The image, the first sample and the number of samples of a part."""
    start = part % parts_of(output) * PART
    return part // parts_of(output), start, min(PART, output.shape[2] - start)


@compiled
def images_as_rows(x, batch_last, n):
    """Image n and those behind it, up to 16: (rows, first), of which rows[i] is image first + i.

    x has images as rows, or, if `batch_last`, as columns, at least 16: then some are turned here, by the thread that
    needs them, which is cheaper than to turn all of them beforehand. Images have at least 16 numbers, too.
    """
    if not batch_last:
        return x, 0
    K, N, size = x.shape[0], x.shape[1], register_size(x)
    rows, first = np.empty((LANES, K), x.dtype), min(n, N - LANES)
    for start in range(0, K, len(size)):
        k = min(start, K - len(size))  # the last tile reaches back to end where the image ends
        for b in range(0, LANES, len(size)):
            tile = load_rows(size, size, x, k * N + first + b, N)
            store(transposed(tile), len(size), 0, rows, b * K + k, K)
    return rows, first


@compiled
def fill_frame(framed, image, H, W, T, padding):
    """Copy the image into the frame, which holds zeros. In some cases the border goes there, too."""
    width, repeats = W + 2 * T, repeats_border(T, padding)
    for h in range(-T if repeats else 0, H + T if repeats else H):
        source, row = image[min(max(h, 0), H - 1) * W :], framed[(h + T) * width + T :]
        copy_row(row, 0, source, 0, W)
        if repeats:
            left, right = framed[(h + T) * width :], row[W:]
            for w in range(T):
                left[w], right[w] = source[0], source[W - 1]


@compiled
def framed_image(framed, images, n, own, H, W, taps, padding):
    """The channels of image n with frames: they are there already, or are made from a row of `images`."""
    if len(framed):
        return framed[n]
    for c in range(len(own)):
        fill_frame(own[c], images[c * H * W :], H, W, len(taps), padding)
    return own


@compiled
def room_for_frames(framed):
    """Room for the frames of an image, if they are not there already."""
    return np.zeros((0 if len(framed) else framed.shape[1], framed.shape[2]), framed.dtype)


@compiled
def repeats_border(T, padding):
    """Whether they may be moved to the border because the frame repeats it."""
    return T == 4 and padding == 1


@compiled
def whole_vectors(count):
    return (count + LANES - 1) // LANES * LANES


@compiled
def split(work, points, count):
    """x of the points to work[0], y to work[1], and zeros to fill up the last vector; how many there are with them."""
    x, y, room = work[0], work[1], whole_vectors(count)
    for s in range(count):
        x[s], y[s] = points[2 * s], points[2 * s + 1]
    for s in range(count, room):
        x[s] = y[s] = 0
    return room


@compiled
def join(points, work, count):
    """The inverse: x and y of the points from work[0] and work[1]."""
    x, y = work[0], work[1]
    for s in range(count):
        points[2 * s], points[2 * s + 1] = x[s], y[s]


@compiled
def copy(target, source, count):
    """`count` numbers, and zeros to fill up the last vector."""
    for s in range(count):
        target[s] = source[s]
    for s in range(count, whole_vectors(count)):
        target[s] = 0


@compiled
def copy_row(target, t, source, s, count):
    """target[t + i] = source[s + i] for i < count: of a short row, such as an image's, faster than a loop over it."""
    if count < LANES:
        for i in range(count):
            target[t + i] = source[s + i]
    for start in range(0, count if count >= LANES else 0, LANES):
        i = min(start, count - LANES)  # the last vector reaches back to end where the row ends
        store(load(_SIZE, source, s + i), 1, 0, target, t + i, 0)


@compiled
def place_taps(m, k, start, work, axis, room, size, stride, taps, run, padding, align_corners, slopes):
    """The taps along an axis of a block of samples from `start` on, whose normalised positions are work[axis].

    m[u, s] is the pixel, counted from the frame's first one and times `stride`; k[0, u, s] its weight; k[1, u, s] the
    weight's slope with respect to the position, if `slopes` are wanted.
    """
    T, one, x, first, slope = len(taps), k.dtype.type(1), work[axis, :room], work[2, :room], work[3, :room]
    scale = to_pixels(x, size, align_corners)
    if T == 2:  # bilinear. At a whole x the cell to the right counts, and its slope
        left, right, left_slope, right_slope = k[0, 0, start:], k[0, 1, start:], k[1, 0, start:], k[1, 1, start:]
        if slopes or padding != 0:
            pad(x, slope, size, padding, align_corners)
        before, after, corner = k.dtype.type(-T), k.dtype.type(size), m[0, start:]
        frame, step = m.dtype.type(T), m.dtype.type(stride)
        for s in range(room):
            cell = np.floor(x[s])
            left[s], right[s] = one - (x[s] - cell), x[s] - cell
            cell = cell if cell > before else before
            corner[s] = (m.dtype.type(cell if cell < after else after) + frame) * step
        for s in range(room if slopes else 0):
            left_slope[s], right_slope[s] = -slope[s] * scale, slope[s] * scale
    else:  # bicubic
        for s in range(room):
            first[s] = np.floor(x[s]) - one
            x[s] = x[s] - np.floor(x[s])
        for u in range(4):
            weight, weight_slope, reach = k[0, u, start:], k[1, u, start:], k.dtype.type(u - 1)
            for s in range(room):
                weight[s], d = _cubic(x[s] - reach, u == 1 or u == 2)
                weight_slope[s] = d * scale
    if len(run) == 1:
        for u in range(T):
            for s in range(room):
                x[s] = first[s] + k.dtype.type(u)
            pad(x, slope, size, padding, align_corners)
            _index(m[u, start:], x, size, stride, T)
    elif T > 2:
        _index(m[0, start:], first, size, stride, T)


@compiled
def to_pixels(x, size, align_corners):
    """Normalised coordinates in pixels; how many pixels a unit is."""
    scale, shift = pixels_per_unit(x, size, align_corners)
    for s in range(len(x)):
        x[s] = to_pixel(x[s], scale, shift)
    return scale


@compiled
def pixels_per_unit(like, size, align_corners):
    """What `to_pixel` needs: how many pixels a unit is, and where the first one stands."""
    number = like.dtype.type
    return number(0.5) * number(size - 1 if align_corners else size), number(0 if align_corners else 0.5)


@compiled(fastmath={"contract"})
def to_pixel(position, scale, shift):
    """As one fused multiply-add, like PyTorch: the last bit decides on which side of a kink a sample falls."""
    return (position + type(position)(1)) * scale - shift


@compiled
def _cubic(d, near):
    """Keys' cubic convolution kernel with a = -3/4 at distance d, and its derivative: two polynomials in s = |d|, for
    s up to 1, `near`, and up to 2."""
    number, s = type(d), abs(d)
    if near:  # (a + 2) s^3 - (a + 3) s^2 + 1
        value, slope = (number(1.25) * s - number(2.25)) * s * s + number(1), (number(3.75) * s - number(4.5)) * s
    else:  # a s^3 - 5 a s^2 + 8 a s - 4 a
        value = ((number(3.75) - number(0.75) * s) * s - number(6)) * s + number(3)
        slope = (number(7.5) - number(2.25) * s) * s - number(6)
    return value, slope if d >= 0 else -slope


@compiled
def pad(x, slope, size, padding, align_corners):
    """Replace pixel coordinates outside; the derivative of the new ones with respect to the old: 1, -1 or 0."""
    one = x.dtype.type(1)
    for s in range(len(x)):
        slope[s] = one
    if padding == 2:
        for s in range(len(x)):
            x[s], slope[s] = reflected(x[s], size, align_corners)
    if padding != 0:
        for s in range(len(x)):
            x[s], slope[s] = clipped(x[s], slope[s], size)


@compiled(fastmath={"contract"})
def reflected(x, size, align_corners):
    """x mirrored at the outer pixels' centres, or at their outer edges, until it is between them; its slope.

    What is left of the distance is rounded once, like PyTorch: millions of pixels outside it makes a difference.
    """
    one, low = type(x)(1), type(x)(0 if align_corners else -0.5)
    period = type(x)(2 * (size - 1) if align_corners else 2 * size)  # there and back again
    distance = abs(x - low)
    distance -= np.trunc(distance / period) * period
    back = period - distance
    return (back if distance > back else distance) + low, -one if (x < low) != (distance > back) else one


@compiled
def clipped(x, slope, size):
    """The nearest pixel of the border. On the border itself the slope is already 0. NaN becomes pixel 0."""
    zero, last = type(x)(0), type(x)(size - 1)
    slope = slope if (x > zero) & (x < last) else zero
    x = x if x > zero else zero
    return x if x < last else last, slope


@compiled
def _index(index, m, size, stride, frame):
    """stride times m + frame, with m brought into the frame: 1e20 and NaN fit no integer."""
    before, after = m.dtype.type(-frame), m.dtype.type(size)
    frame, stride = index.dtype.type(frame), index.dtype.type(stride)
    for s in range(len(m)):
        nearest = m[s] if m[s] > before else before
        index[s] = (index.dtype.type(nearest if nearest < after else after) + frame) * stride
