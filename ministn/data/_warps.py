"""Digits on a canvas: the loops behind `ministn.data.distortions`.

One iteration of the outer loop makes one image; it reads that image and what was drawn for it, and writes into its own
canvas. Pixel (i, j) has its centre at y = i, x = j. Every map goes from the canvas (the target) to the image (the
source), so that each pixel of the canvas gets exactly one value:

    out[b, i, j] = image b, interpolated at the source point of (x = j, y = i), rounded to the nearest integer      (1)
"""

from __future__ import annotations

import numpy as np

from ministn.kernels.compiled import compiled, parallel_for


def projected(images: np.ndarray, matrices: np.ndarray, canvas: int) -> np.ndarray:
    """Images seen through homographies.

    Parameters
    ----------
    images : uint8 ndarray, shape (B, H, W)
    matrices : float64 ndarray, shape (B, 3, 3)
        The source point of (x, y) is (X / w, Y / w) with (X, Y, w) = matrix (x, y, 1); there is none where w <= 0,
        beyond the horizon, and the canvas stays empty there.
    canvas : int

    Returns
    -------
    uint8 ndarray, shape (B, canvas, canvas)
    """
    out = np.empty((len(images), canvas, canvas), np.uint8)
    _project(len(images), images, matrices, out)
    return out


def splined(images: np.ndarray, weights: np.ndarray, points: np.ndarray, canvas: int) -> np.ndarray:
    """Images seen through maps that are linear in a few points, such as thin plate splines.

    Parameters
    ----------
    images : uint8 ndarray, shape (B, H, W)
    weights : float32 ndarray, shape (K, canvas^2)
        The source point of pixel (i, j) is the sum over k of weights[k, i canvas + j] points[b, k].
    points : float32 ndarray, shape (B, K, 2)
        (x, y) in the source.
    canvas : int

    Returns
    -------
    uint8 ndarray, shape (B, canvas, canvas)
    """
    out = np.empty((len(images), canvas, canvas), np.uint8)
    _spline(len(images), images, weights, points, out.reshape(len(images), canvas * canvas))
    return out


def scattered(
    images: np.ndarray,
    corners: np.ndarray,
    clutter: np.ndarray,
    cut: np.ndarray,
    glued: np.ndarray,
    patch: int,
    canvas: int,
) -> np.ndarray:
    """Images at whole-pixel places of an empty canvas, and square patches of other images added; at most 255.

    Parameters
    ----------
    images : uint8 ndarray, shape (B, H, W)
    corners : int64 ndarray, shape (B, 2)
        (i, j) of the canvas where the image has its pixel (0, 0).
    clutter : uint8 ndarray, shape (N, H', W')
    cut : int64 ndarray, shape (B, P, 3)
        (n, i, j): the patch's first pixel is clutter[n, i, j].
    glued : int64 ndarray, shape (B, P, 2)
        (i, j) of the canvas where it comes.
    patch : int
        The side of a patch.
    canvas : int

    Returns
    -------
    uint8 ndarray, shape (B, canvas, canvas)
    """
    out = np.zeros((len(images), canvas, canvas), np.uint8)
    _scatter(len(images), images, corners, clutter, cut, glued, patch, out)
    return out


@compiled
def _project(count, *arguments):
    parallel_for(_project_image, count, arguments)


@compiled
def _spline(count, *arguments):
    parallel_for(_spline_image, count, arguments)


@compiled
def _scatter(count, *arguments):
    parallel_for(_scatter_image, count, arguments)


@compiled
def _project_image(b, images, matrices, out):
    image, m = _framed(images[b]), matrices[b]
    _, rows, columns = out.shape
    for i in range(rows):
        for j in range(columns):
            w = m[2, 0] * j + m[2, 1] * i + m[2, 2]
            x = (m[0, 0] * j + m[0, 1] * i + m[0, 2]) / w
            y = (m[1, 0] * j + m[1, 1] * i + m[1, 2]) / w
            out[b, i, j] = _bilinear(image, x, y) if w > 0 else np.uint8(0)


@compiled
def _spline_image(b, images, weights, points, out):
    image = _framed(images[b])
    controls, pixels = weights.shape
    x, y = np.zeros(pixels, np.float32), np.zeros(pixels, np.float32)
    for k in range(controls):
        for p in range(pixels):
            x[p] += weights[k, p] * points[b, k, 0]
            y[p] += weights[k, p] * points[b, k, 1]
    for p in range(pixels):
        out[b, p] = _bilinear(image, x[p], y[p])


@compiled
def _scatter_image(b, images, corners, clutter, cut, glued, patch, out):
    _, height, width = images.shape
    for i in range(height):
        for j in range(width):
            out[b, corners[b, 0] + i, corners[b, 1] + j] = images[b, i, j]
    for k in range(cut.shape[1]):
        for i in range(patch):
            for j in range(patch):
                row, column = glued[b, k, 0] + i, glued[b, k, 1] + j
                total = np.int64(out[b, row, column]) + clutter[cut[b, k, 0], cut[b, k, 1] + i, cut[b, k, 2] + j]
                out[b, row, column] = min(total, 255)


@compiled
def _framed(image):
    """A copy with one row and column of zeros before, two after: what lies outside reads zeros, without a branch."""
    height, width = image.shape
    framed = np.zeros((height + 3, width + 3), np.float32)
    for i in range(height):
        for j in range(width):
            framed[i + 1, j + 1] = image[i, j]
    return framed


@compiled
def _bilinear(image, x, y):
    """Equation (1) at (x, y), in pixels of the image that stands in the frame: the four pixels around, weighted."""
    height, width = image.shape
    x = min(max(x + 1, 0), width - 2)  # in pixels of the frame; beyond its edge as on the edge, where all is 0
    y = min(max(y + 1, 0), height - 2)
    i, j = int(y), int(x)
    right, down = np.float32(x - j), np.float32(y - i)
    above = image[i, j] + right * (image[i, j + 1] - image[i, j])
    below = image[i + 1, j] + right * (image[i + 1, j + 1] - image[i + 1, j])
    return np.uint8(above + down * (below - above) + np.float32(0.5))
