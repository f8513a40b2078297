"""V is linear in each of the four pixels: dV/dU is that pixel's weight.

In V only t depends on x, and dt/dx = 1 between two pixels. So dV/dx = (1 - s) (right - left in the row above) +
s (right - left in the row below), and dx/dg_x = (W - 1) / 2. With the axes exchanged: dV/dy = (1 - t) (below - above in
the left column) + t (the same in the right one), and dy/dg_y = (H - 1) / 2.
"""

import numpy as np


def backward(self, grad_output):
    image, left, top, t, s = self.image, self.left, self.top, self.t, self.s
    H, W = image.shape

    grad_image = np.zeros((H, W))
    np.add.at(grad_image, (top, left), grad_output * (1 - s) * (1 - t))
    np.add.at(grad_image, (top, left + 1), grad_output * (1 - s) * t)
    np.add.at(grad_image, (top + 1, left), grad_output * s * (1 - t))
    np.add.at(grad_image, (top + 1, left + 1), grad_output * s * t)

    top_left, top_right = image[top, left], image[top, left + 1]
    bottom_left, bottom_right = image[top + 1, left], image[top + 1, left + 1]
    dV_dx = (1 - s) * (top_right - top_left) + s * (bottom_right - bottom_left)
    dV_dy = (1 - t) * (bottom_left - top_left) + t * (bottom_right - top_right)
    grad_grid = np.stack([grad_output * dV_dx * (W - 1) / 2, grad_output * dV_dy * (H - 1) / 2], axis=-1)
    return grad_image, grad_grid
