"""Exercise 2, max pooling of windows of 2 x 2 pixels: write `backward`, then run

    python examples/exercises/max_pool2d.py

The forward is y_ij = the largest of x[2i, 2j], x[2i, 2j + 1], x[2i + 1, 2j], x[2i + 1, 2j + 1]. Begin with

    dL/dx_pq = sum over i, j of  g_ij dy_ij/dx_pq,  where g = grad_output = dL/dy

A pixel (p, q) is in one window alone. What is dy_ij/dx_pq if it has won there, and what if it has not? `taps` has the
number of the winner of each window: 0 and 1 are the upper pixels, 2 and 3 the lower ones.
"""

import numpy as np
from judge import judge

from ministn import Function


class MaxPool2d(Function):
    def forward(self, x):
        H, W = x.shape  # both even
        windows = x.reshape(H // 2, 2, W // 2, 2).transpose(0, 2, 1, 3).reshape(H // 2, W // 2, 4)
        self.shape = H, W
        self.taps = windows.argmax(axis=-1)  # (H/2, W/2): 0 to 3
        return windows.max(axis=-1)

    def backward(self, grad_output):
        """dL/dx, shape (H, W), from grad_output of shape (H/2, W/2)."""
        raise NotImplementedError("write your lines in place of this one")


def example():
    """x, whose entries all differ, by 0.1 or more.

    Where the two largest of a window are equal, a small change of either decides which of them wins: the slope jumps.
    The judge keeps away from such ties.
    """
    return [np.random.default_rng(0).permutation(24).reshape(4, 6) / 10]


if __name__ == "__main__":
    judge(MaxPool2d, example())
