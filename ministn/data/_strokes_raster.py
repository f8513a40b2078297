"""Ink on paper: polylines drawn with a round pen, the Numba loop behind `ministn.data.strokes`.

One iteration of the outer loop draws one image into its own sheet. A pixel's ink is the part of it that the pen
covers, taken as r + 1/2 - d clipped to [0, 1], for a pen of radius r at its nearest point, d away from the pixel's
centre. Strokes that cross do not add up: a pixel keeps the most ink that any of them gave it.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def draw_polylines(points: np.ndarray, pen_down: np.ndarray, radius: np.ndarray, images: np.ndarray) -> None:
    """Draw polyline n, shape (P, 2) of (x, y) in pixels, pen radius r_n, into image n of uint8 (H, W).

    Pixel (i, j) has its centre at x = j, y = i. Segment s joins points s and s + 1 and is drawn where `pen_down[s]`.
    """
    number, height, width = images.shape
    sheet = np.zeros((height, width))
    for n in range(number):
        sheet[:] = 0.0
        reach = radius[n] + 0.5
        for s in range(len(pen_down)):
            if not pen_down[s]:
                continue
            x0, y0 = points[n, s, 0], points[n, s, 1]
            dx, dy = points[n, s + 1, 0] - x0, points[n, s + 1, 1] - y0
            length_squared = max(dx * dx + dy * dy, 1e-12)  # a segment may be a dot
            top, bottom = max(0, np.ceil(min(y0, y0 + dy) - reach)), min(height - 1, np.floor(max(y0, y0 + dy) + reach))
            left, right = max(0, np.ceil(min(x0, x0 + dx) - reach)), min(width - 1, np.floor(max(x0, x0 + dx) + reach))
            for i in range(int(top), int(bottom) + 1):
                for j in range(int(left), int(right) + 1):
                    along = min(1.0, max(0.0, ((j - x0) * dx + (i - y0) * dy) / length_squared))
                    distance = np.hypot(x0 + along * dx - j, y0 + along * dy - i)
                    sheet[i, j] = max(sheet[i, j], min(1.0, reach - distance))
        for i in range(height):
            for j in range(width):
                images[n, i, j] = np.uint8(255.0 * sheet[i, j] + 0.5)
