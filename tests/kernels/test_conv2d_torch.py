"""conv2d against torch.nn.functional.conv2d: values and all three gradients."""

import numpy as np
import pytest
from implementations import KERNELS, kernels

from ministn import Tensor
from ministn.kernels.conv2d import conv2d

torch = pytest.importorskip("torch")

CASES = [  # (N, C, H, W), (O, KH, KW), options
    ((64, 1, 28, 28), (8, 7, 7), {}),  # the convolutions of the tutorial's network
    ((64, 8, 11, 11), (10, 5, 5), {}),
    ((64, 10, 12, 12), (20, 5, 5), {}),
    ((3, 2, 7, 9), (5, 3, 2), {"stride": 2, "padding": 1, "dilation": 1}),
    ((2, 3, 13, 10), (4, 3, 4), {"stride": (1, 3), "padding": (2, 5), "dilation": (3, 2)}),
    ((1, 2, 5, 6), (3, 2, 3), {"stride": (4, 1), "padding": (0, 3), "dilation": (1, 4)}),
]


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "reference"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("shape", "filters", "options"), CASES)
def test_values_and_gradients(name, dtype, with_bias, shape, filters, options):
    generator = np.random.default_rng(0)
    shapes = [shape, (filters[0], shape[1], *filters[1:]), filters[:1]][: 3 if with_bias else 2]
    arrays = [generator.uniform(-1, 1, s).astype(dtype) for s in shapes]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]

    expected = torch.nn.functional.conv2d(*theirs, **options)
    g = generator.uniform(-1, 1, expected.shape).astype(dtype)
    expected.backward(torch.tensor(g))
    with kernels(name):
        y = conv2d(*ours, **options)
        y.backward(g)

    # A gradient for the weight or bias adds up to N OH OW = 31,000 products of size 1. Rounding errors of random signs
    # grow like the root of their number; 50 times that bound is still far below the error of one wrong term.
    def tolerance(terms):
        return 50 * np.finfo(dtype).eps * np.sqrt(terms)

    per_pixel, per_tap = arrays[1][0].size, g[:, 0].size
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=0, atol=tolerance(per_pixel))
    terms = (arrays[1][:, 0].size, per_tap, per_tap)
    for mine, other, count in zip(ours, theirs, terms, strict=False):
        np.testing.assert_allclose(mine.grad.data, other.grad.numpy(), rtol=0, atol=tolerance(count))
