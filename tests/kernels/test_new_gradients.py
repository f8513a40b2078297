"""Functions that say `new_gradients`: each gradient is an array of its own, which no later call writes to."""

import itertools

import numpy as np
import pytest
from implementations import KERNELS, kernels

from ministn.kernels.conv2d.op import Conv2d
from ministn.kernels.grid_sample.op import GridSample
from ministn.kernels.linear.op import Linear
from ministn.ops.convolution import ConvTranspose2d

SAME = (1, 1), (0, 0), (1, 1)  # stride, padding, dilation
CASES = {
    "conv2d": (Conv2d, {"geometry": SAME}, [(32, 3, 9, 8), (10, 3, 3, 3), (10,)]),
    "conv2d, one image": (Conv2d, {"geometry": SAME}, [(1, 2, 5, 5), (3, 2, 1, 1), (3,)]),
    "conv_transpose2d": (ConvTranspose2d, {"geometry": SAME, "size": (9, 8)}, [(32, 3, 7, 6), (3, 10, 3, 3), (10,)]),
    "linear, in tiles": (Linear, {}, [(64, 90), (50, 90), (50,)]),
    "linear": (Linear, {}, [(1, 4), (3, 4), (3,)]),
    "grid_sample": (
        GridSample,
        {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False},
        [(17, 1, 6, 5), (17, 4, 3, 2)],
    ),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("case", CASES)
def test_no_gradient_shares_memory(case, name):
    function, options, shapes = CASES[case]
    assert function.new_gradients
    rng = np.random.default_rng(0)
    calls = []
    with kernels(name):
        for _ in range(2):
            arrays = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
            call = function(**options)
            call.needs_grad = (True,) * len(arrays)
            output = call.forward(*arrays)
            grad_output = rng.uniform(-1, 1, output.shape).astype(np.float32)
            gradients = call.backward(grad_output)
            calls.append((gradients, [gradient.copy() for gradient in gradients], [*arrays, grad_output, output]))
    everything = [array for gradients, _, others in calls for array in (*gradients, *others)]
    for a, b in itertools.combinations(everything, 2):
        assert not np.shares_memory(a, b)
    for gradients, copies, _ in calls:
        for gradient, copy in zip(gradients, copies, strict=True):
            np.testing.assert_array_equal(gradient, copy)
