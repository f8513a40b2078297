"""Exercise 3, bilinear sampling: write `backward`, then run

    python examples/exercises/grid_sample.py

One image U of one channel, and points (g_x, g_y) from -1, the centre of the first pixel, to 1, the centre of the last
(align_corners=True). In pixels, x = (g_x + 1) (W - 1) / 2 and y = (g_y + 1) (H - 1) / 2. With left and top, x and y
rounded down, and t = x - left, s = y - top, a point reads the four pixels around it:

    V = (1 - s) ((1 - t) U[top,     left] + t U[top,     left + 1])
      +      s  ((1 - t) U[top + 1, left] + t U[top + 1, left + 1])

Begin with these two, for the pixel in row n and column m, and for one point; g is its grad_output, dL/dV:

    dL/dU[n, m] = sum over all points of  g dV/dU[n, m]
    dL/dg_x     = g dV/dx dx/dg_x,  and the same for y

The grid is the easier half: while you return (None, grad_grid), the judge looks at that alone. For the image: points
may share pixels, and NumPy's `a[rows, columns] += b` adds only one of several b to a place;
`np.add.at(a, (rows, columns), b)` adds them all.
"""

import numpy as np
from judge import judge

from ministn import Function


class GridSample(Function):
    def forward(self, image, grid):
        H, W = image.shape
        x, y = (grid[..., 0] + 1) * (W - 1) / 2, (grid[..., 1] + 1) * (H - 1) / 2
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        t, s = x - left, y - top
        self.image, self.left, self.top, self.t, self.s = image, left, top, t, s
        above = (1 - t) * image[top, left] + t * image[top, left + 1]
        below = (1 - t) * image[top + 1, left] + t * image[top + 1, left + 1]
        return (1 - s) * above + s * below

    def backward(self, grad_output):
        """(dL/dimage, dL/dgrid), of shapes (H, W) and (H_out, W_out, 2), from grad_output of shape (H_out, W_out)."""
        raise NotImplementedError("write your lines in place of this one")


def example():
    """An image of 4 x 6 pixels and 3 x 5 points in it, none nearer to a whole row or column than 0.1 pixels.

    On a pixel the slope jumps from that of the cell at its left to that of the cell at its right. The judge keeps away
    from there, and from what lies outside the image.
    """
    random = np.random.default_rng(0)
    H, W, points = 4, 6, (3, 5)
    x = random.integers(W - 1, size=points) + random.uniform(0.1, 0.9, points)
    y = random.integers(H - 1, size=points) + random.uniform(0.1, 0.9, points)
    return [random.normal(size=(H, W)), np.stack([2 * x / (W - 1) - 1, 2 * y / (H - 1) - 1], axis=-1)]


if __name__ == "__main__":
    judge(GridSample, example())
