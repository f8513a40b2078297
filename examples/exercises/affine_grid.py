"""Exercise 4, the affine grid: write `backward`, then run

    python examples/exercises/affine_grid.py

The forward makes one source point of each output pixel (i, j), all with the same six numbers theta:

    x_s = theta_11 x_t + theta_12 y_t + theta_13
    y_s = theta_21 x_t + theta_22 y_t + theta_23

`points` has (x_t, y_t, 1) of each pixel. Begin with one of the six:

    dL/dtheta_11 = sum over i, j of  dL/dx_s[i, j] dx_s[i, j]/dtheta_11

`grad_output[i, j]` is (dL/dx_s[i, j], dL/dy_s[i, j]).
"""

import numpy as np
from judge import judge

from ministn import Function

H, W = 3, 4  # of the output


class AffineGrid(Function):
    def forward(self, theta):
        x, y = np.meshgrid(np.linspace(-1, 1, W), np.linspace(-1, 1, H))  # align_corners=True
        self.points = np.stack([x, y, np.ones((H, W))], axis=-1)  # (H, W, 3)
        return self.points @ theta.T  # (H, W, 2)

    def backward(self, grad_output):
        """dL/dtheta, shape (2, 3), from grad_output of shape (H, W, 2)."""
        raise NotImplementedError("write your lines in place of this one")


def example():
    """Any theta: the map is linear, without a kink to keep away from."""
    return [np.random.default_rng(0).normal(size=(2, 3))]


if __name__ == "__main__":
    judge(AffineGrid, example())
