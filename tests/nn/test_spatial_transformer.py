"""SpatialTransformer: what it asks of its parts, and what it hands to the kernel."""

import numpy as np
import pytest

from ministn import Tensor, gradcheck, nn
from ministn import functional as F


def images(*shape, dtype=np.float64):
    return Tensor(np.random.default_rng(3).standard_normal(shape).astype(dtype))


def localisation(pixels, outputs=6):
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, outputs))


@pytest.mark.parametrize("align_corners", [False, True])
def test_it_starts_with_the_identity(align_corners):
    x = images(3, 2, 5, 7, dtype=np.float32)
    network = localisation(70)
    assert nn.identity_(network[1]) is network[1]
    layer = nn.SpatialTransformer(network, align_corners=align_corners)
    np.testing.assert_array_equal(layer.theta(x).detach().numpy(), np.tile(np.eye(2, 3), (3, 1, 1)))
    # A pixel's coordinate may be off by a rounding of some 1e-7 of the image's width.
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy(), atol=5e-6)


def test_rows_of_theta_are_the_parameters_in_order():
    network = localisation(4)
    network[1].weight.data[...] = 0
    network[1].bias.data[...] = [1, 2, 3, 4, 5, 6]
    theta = nn.SpatialTransformer(network).theta(images(1, 1, 2, 2, dtype=np.float32))
    np.testing.assert_array_equal(theta.detach().numpy(), [[[1, 2, 3], [4, 5, 6]]])


def test_output_size_and_the_two_separate_steps():
    x, network = images(2, 3, 6, 5), localisation(90).double()
    for size, align_corners in [((4, 9), False), ((4, 9), True), (None, False)]:
        layer = nn.SpatialTransformer(network, output_size=size, align_corners=align_corners)
        shape = (2, 3, *(size or (6, 5)))
        grid = F.affine_grid(layer.theta(x), shape, align_corners=align_corners)
        expected = F.grid_sample(x, grid, align_corners=align_corners).detach().numpy()
        assert layer(x).shape == shape
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)  # float64 rounding


def test_one_number_is_a_square_output():
    layer = nn.SpatialTransformer(localisation(30), output_size=8)
    assert layer.output_size == (8, 8)
    assert layer(images(2, 1, 6, 5, dtype=np.float32)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("output_size", "error", "message"),
    [
        (0, ValueError, "SpatialTransformer: expected output_size to be at least 1, got 0"),
        ((3, -1), ValueError, r"expected output_size to be at least 1, got \(3, -1\)"),
        ((3, 4, 5), TypeError, r"SpatialTransformer: expected output_size to be an integer or two, got \(3, 4, 5\)"),
        (2.5, TypeError, "expected output_size to be an integer or two, got 2.5"),
        ("8", TypeError, "expected output_size to be an integer or two, got '8'"),
    ],
)
def test_a_wrong_output_size_is_refused_at_once(output_size, error, message):
    with pytest.raises(error, match=message):
        nn.SpatialTransformer(localisation(30), output_size=output_size)


def test_any_transform_can_be_given_and_learnt():
    class Scale(nn.Module):
        """One parameter s per image: theta = [s 0 0; 0 s 0], times a learnt factor."""

        def __init__(self):
            self.factor = nn.Parameter(np.array(0.8))
            self.basis = Tensor(np.eye(2, 3).reshape(1, 6))

        def forward(self, parameters):
            return (self.factor * parameters @ self.basis).reshape(-1, 2, 3)

    x = images(2, 1, 4, 5)
    layer = nn.SpatialTransformer(localisation(20, outputs=1), transform=Scale()).double()
    assert "transform.factor" in dict(layer.named_parameters())
    theta = layer.theta(x).detach().numpy()
    scale = 0.8 * (x.numpy().reshape(2, 20) @ layer.localisation[1].weight.data.T + layer.localisation[1].bias.data)
    np.testing.assert_allclose(theta, scale.reshape(2, 1, 1) * np.eye(2, 3), atol=1e-12)  # float64 rounding
    layer(x).sum().backward()
    assert layer.transform.factor.grad.item() != 0


def test_gradients_reach_image_and_localisation():
    x = images(2, 2, 4, 5)
    x.requires_grad = True
    layer = nn.SpatialTransformer(localisation(40)).double()
    layer.localisation[1].weight.data *= 0.3  # theta near, but not at, the identity: away from the kinks
    layer.localisation[1].bias.data[...] = [0.9, 0.1, 0.05, -0.1, 0.8, -0.05]
    assert gradcheck(layer, [x])


def test_wrong_widths_are_named():
    x = images(3, 1, 2, 2, dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected localisation to return the 6 .* \(3, 6\), got \(3, 4\)"):
        nn.SpatialTransformer(localisation(4, outputs=4))(x)
    with pytest.raises(ValueError, match=r"expected transform to return theta of shape \(3, 2, 3\), got \(3, 4\)"):
        nn.SpatialTransformer(localisation(4, outputs=4), transform=lambda parameters: parameters)(x)
    with pytest.raises(ValueError, match="expected transform to be 'affine' or callable, got 'projective'"):
        nn.SpatialTransformer(localisation(4), transform="projective")


def test_identity_needs_six_outputs_and_a_bias():
    with pytest.raises(ValueError, match="expected a Linear with 6 output features and a bias"):
        nn.identity_(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="expected a Linear with 6 output features and a bias"):
        nn.identity_(nn.Linear(3, 6, bias=False))
    with pytest.raises(TypeError, match="expected the last Linear of a localisation network, got ReLU"):
        nn.identity_(nn.ReLU())


def test_it_keeps_nothing_between_calls():
    layer = nn.SpatialTransformer(localisation(4))
    before = set(vars(layer))
    layer(images(3, 1, 2, 2, dtype=np.float32))
    assert set(vars(layer)) == before
