"""Exercise 1, ReLU: write `backward`, then run

    python examples/exercises/relu.py

The forward is y_k = max(0, x_k) for every entry k. Begin with the chain rule for one entry of x,

    dL/dx_i = sum over k of  g_k dy_k/dx_i,  where g = grad_output = dL/dy comes from the layers above.

Which of the y_k change when x_i does? How steep is max(0, x) left of 0, how steep right of it?
"""

import numpy as np
from judge import judge

from ministn import Function


class ReLU(Function):
    def forward(self, x):
        self.x = x  # what backward will need
        return np.maximum(x, 0)

    def backward(self, grad_output):
        """dL/dx, an array of the shape of x."""
        raise NotImplementedError("write your lines in place of this one")


def example():
    """x, of which no entry is nearer to 0 than 0.1.

    At 0 the slope jumps, and there is nothing to hold a gradient against: a difference across the jump measures the
    mean of both slopes. So the judge keeps away from it.
    """
    random = np.random.default_rng(0)
    return [random.choice([-1, 1], (3, 4)) * random.uniform(0.1, 2, (3, 4))]


if __name__ == "__main__":
    judge(ReLU, example())
