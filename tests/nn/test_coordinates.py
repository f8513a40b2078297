"""AddCoordinates and CoordConv2d."""

import numpy as np
import pytest

from ministn import Tensor, gradcheck, nn
from ministn import functional as F


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_x_varies_along_columns_and_y_along_rows_of_a_non_square_image(dtype):
    image = np.arange(12, dtype=dtype).reshape(2, 1, 2, 3)
    output = nn.AddCoordinates(radius=True)(Tensor(image)).numpy()
    assert output.dtype == dtype
    assert output.shape == (2, 4, 2, 3)
    np.testing.assert_array_equal(output[:, :1], image)
    for sample in output:
        np.testing.assert_array_equal(sample[1], [[-1, 0, 1], [-1, 0, 1]])
        np.testing.assert_array_equal(sample[2], [[-1, -1, -1], [1, 1, 1]])
        root = dtype(np.sqrt(dtype(2)))
        np.testing.assert_array_equal(sample[3], [[root, 1, root], [root, 1, root]])


@pytest.mark.parametrize(("height", "width"), [(5, 9), (8, 3), (28, 28)])
def test_both_axes_are_spaced_evenly_from_minus_one_to_one(height, width):
    output = nn.AddCoordinates()(Tensor(np.zeros((3, 2, height, width)))).numpy()
    assert output.shape == (3, 4, height, width)
    np.testing.assert_array_equal(output[1, 2], np.tile(np.linspace(-1, 1, width), (height, 1)))
    np.testing.assert_array_equal(output[1, 3], np.tile(np.linspace(-1, 1, height)[:, None], (1, width)))


def test_the_only_pixel_of_an_axis_lies_in_the_middle():
    output = nn.AddCoordinates(radius=True)(Tensor(np.ones((1, 1, 1, 3)))).numpy()
    np.testing.assert_array_equal(output[0], [[[1, 1, 1]], [[-1, 0, 1]], [[0, 0, 0]], [[1, 0, 1]]])


def test_the_memory_order_of_the_image_is_kept():
    image = np.random.default_rng(0).standard_normal((4, 2, 3, 5))
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 0, -1)), -1, 0)
    first, second = (nn.AddCoordinates()(Tensor(x)).numpy() for x in (image, batch_last))
    np.testing.assert_array_equal(first, second)
    assert first.flags.c_contiguous
    assert np.moveaxis(second, 0, -1).flags.c_contiguous


def test_the_gradient_passes_to_the_image():
    image = Tensor(np.random.default_rng(1).standard_normal((2, 3, 4, 5)), requires_grad=True)
    assert gradcheck(nn.AddCoordinates(radius=True), [image])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"AddCoordinates: expected input of shape \(N, C, H, W\), got \(3, 4\)"):
        nn.AddCoordinates()(Tensor(np.zeros((3, 4))))


@pytest.mark.parametrize("radius", [False, True])
def test_coord_conv_with_zero_weights_on_coordinates_is_a_convolution(radius):
    image = Tensor(np.random.default_rng(2).standard_normal((3, 2, 9, 7)).astype(np.float32))
    layer = nn.CoordConv2d(2, 4, (3, 5), stride=2, padding=1, radius=radius)
    assert layer.weight.shape == (4, 5 if radius else 4, 3, 5)
    layer.weight.data[:, 2:] = 0
    ordinary = F.conv2d(image, Tensor(layer.weight.data[:, :2].copy()), Tensor(layer.bias.data), stride=2, padding=1)
    # The zero products are exact; the order of the sums may differ: rounding of float32 sums of some 75 terms.
    np.testing.assert_allclose(layer(image).detach().numpy(), ordinary.numpy(), rtol=1e-5, atol=1e-5)


def test_coord_conv_can_answer_with_the_position():
    layer = nn.CoordConv2d(1, 1, 1, bias=False)
    layer.weight.data[...] = np.array([0, 1, 10], np.float32).reshape(1, 3, 1, 1)
    output = layer(Tensor(np.ones((1, 1, 3, 3), np.float32))).detach().numpy()
    np.testing.assert_allclose(output[0, 0], [[-11, -10, -9], [-1, 0, 1], [9, 10, 11]], rtol=1e-6)  # one rounding


@pytest.mark.parametrize("radius", [False, True])
def test_coord_conv_counts_only_the_images_own_channels(radius):
    layer = nn.CoordConv2d(2, 3, 3, radius=radius)
    assert layer.in_channels == 2
    assert repr(layer).startswith("CoordConv2d(\n  2, 3, kernel_size=(3, 3), ")
    with pytest.raises(
        ValueError, match=r"CoordConv2d: expected axis C of input to be 2 \(in_channels, the image's own\), got 4"
    ):
        layer(Tensor(np.zeros((1, 4, 5, 6), np.float32)))
    with pytest.raises(ValueError, match=r"CoordConv2d: expected input of shape \(N, C, H, W\), got \(2, 5, 6\)"):
        layer(Tensor(np.zeros((2, 5, 6), np.float32)))


def test_coord_conv_needs_channels():
    with pytest.raises(ValueError, match="CoordConv2d: expected in_channels to be at least 1, got 0"):
        nn.CoordConv2d(0, 3, 3)
    with pytest.raises(ValueError, match="CoordConv2d: expected out_channels to be at least 1, got 0"):
        nn.CoordConv2d(1, 0, 3)
