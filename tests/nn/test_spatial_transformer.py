"""SpatialTransformer: what it asks of its parts, and what it hands to the kernel."""

import numpy as np
import pytest

from ministn import Tensor, gradcheck, nn
from ministn import functional as F
from ministn.nn.transforms import Bounded, Compose, get


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


TRANSFORMS = {
    "translation": "translation",
    "rotation": "rotation",
    "attention": "attention",
    "similarity": "similarity",
    "affine": "affine",
    "projective": "projective",
    "tps": "tps",
    "bounded": Bounded("affine", 0.3),
    "composed": Compose("rotation", "tps", "translation"),
}


def layer_near_the_identity(transform, features, **options):
    """In float64; every sample lies off the kinks of bilinear sampling, which the identity does not."""
    transform = get(transform)
    rng = np.random.default_rng(8)
    network = localisation(features, transform.num_parameters).double()
    network[1].weight.data[...] = 0.02 * rng.standard_normal(network[1].weight.shape)
    network[1].bias.data[...] = transform.identity + 0.1 * rng.standard_normal(transform.num_parameters)
    return nn.SpatialTransformer(network, transform, **options)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_with_each_transform(name):
    """Of the whole layer, with respect to the image and to the localisation network's weights."""
    layer = layer_near_the_identity(TRANSFORMS[name], 40, output_size=(3, 4))
    last = layer.localisation[1]

    def with_weights(x, weight, bias):
        layer.localisation = lambda x: F.linear(x.flatten(1), weight, bias)
        return layer(x)

    inputs = [images(2, 2, 4, 5), *(Tensor(value.data) for value in (last.weight, last.bias))]
    for tensor in inputs:
        tensor.requires_grad = True
    assert gradcheck(with_weights, inputs, directions=2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_starts_with_the_identity(name, align_corners):
    x = images(3, 2, 5, 7)
    transform = get(TRANSFORMS[name])
    network = localisation(70, transform.num_parameters).double()
    assert nn.identity_(network[1], TRANSFORMS[name]) is network[1]
    layer = nn.SpatialTransformer(network, TRANSFORMS[name], align_corners=align_corners)
    grid = F.affine_grid(Tensor(np.tile(np.eye(2, 3), (3, 1, 1))), (3, 2, 5, 7), align_corners)
    np.testing.assert_allclose(layer.grid(x).detach().data, grid.data, rtol=0, atol=1e-15)  # a float64 rounding
    np.testing.assert_allclose(layer(x).detach().data, x.data, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("transform", ["attention", "tps"])
def test_samplers_and_padding(transform, mode, padding_mode):
    x = images(2, 3, 6, 5)
    for size, align_corners in [((4, 9), True), (3, False), (None, False)]:
        options = {"output_size": size, "align_corners": align_corners, "padding_mode": padding_mode}
        layer = layer_near_the_identity(transform, 90, sampler=mode, **options)
        layer.localisation[1].bias.data *= 2  # also from outside
        rows, columns = layer.output_size or (6, 5)
        grid = layer.transform.grid(layer.theta(x), (2, 3, rows, columns), align_corners)
        np.testing.assert_array_equal(layer.grid(x).data, grid.data)
        assert abs(grid.data).max() > 1.2
        expected = F.grid_sample(x, grid, mode, padding_mode, align_corners)
        assert layer(x).shape == (2, 3, rows, columns)
        np.testing.assert_allclose(layer(x).data, expected.data, rtol=0, atol=1e-12)  # float64 rounding, if fused


def test_a_sampler_of_ones_own_sees_input_and_grid():
    seen = []

    class Sampler(nn.Module):
        def __init__(self):
            self.gain = nn.Parameter(np.array(2.0))

        def forward(self, input, grid):
            seen.append((input, grid))
            return self.gain * F.grid_sample(input, grid)

    x = images(2, 3, 6, 5)
    layer = layer_near_the_identity("affine", 90, sampler=Sampler())
    assert "sampler.gain" in dict(layer.named_parameters())
    np.testing.assert_allclose(layer(x).data, 2 * layer_near_the_identity("affine", 90)(x).data, rtol=0, atol=1e-12)
    (input, grid), *more = seen
    assert input is x
    assert not more
    np.testing.assert_array_equal(grid.data, layer.grid(x).data)


def test_a_callable_transform_goes_with_any_sampler():
    x = images(2, 1, 4, 5)
    given = np.random.default_rng(0).standard_normal((2, 2, 3))
    layer = nn.SpatialTransformer(lambda x: x, lambda parameters: Tensor(given), sampler="bicubic", output_size=3)
    grid = F.affine_grid(Tensor(given), (2, 1, 3, 3))
    np.testing.assert_array_equal(layer.grid(x).data, grid.data)
    np.testing.assert_array_equal(layer(x).data, F.grid_sample(x, grid, "bicubic").data)


def test_what_is_no_sampler_is_refused_at_once():
    with pytest.raises(ValueError, match="expected sampler to be one of 'bilinear', 'nearest', 'bicubic', got 'cubic'"):
        nn.SpatialTransformer(localisation(4), sampler="cubic")
    with pytest.raises(ValueError, match=r"expected padding_mode to be one of 'zeros', .*, got 'mirror'"):
        nn.SpatialTransformer(localisation(4), padding_mode="mirror")
    with pytest.raises(ValueError, match=r"expected no padding_mode beside a callable sampler, .* got 'border'"):
        nn.SpatialTransformer(localisation(4), sampler=F.grid_sample, padding_mode="border")


# --- in networks ------------------------------------------------------------------------------------------------------


def test_two_in_parallel_as_in_the_papers_addition_of_digits():
    """Each sees both channels of the input and warps both: 2 channels become 4."""
    x = images(3, 2, 6, 6)
    layers = [layer_near_the_identity(transform, 72, output_size=4) for transform in ("affine", "tps")]
    both = nn.Parallel(*layers)
    assert list(both) == layers
    assert [name for name, _ in both.named_children()] == ["0", "1"]
    output = both(x)
    assert output.shape == (3, 4, 4, 4)
    for first, layer in zip((0, 2), layers, strict=True):
        np.testing.assert_array_equal(output.data[:, first : first + 2], layer(x).data)
    output.sum().backward()
    assert all(np.abs(parameter.grad.data).max() > 0 for parameter in both.parameters())


def test_parallel_modules_must_agree():
    with pytest.raises(ValueError, match="Parallel: expected at least one module, got none"):
        nn.Parallel()
    with pytest.raises(TypeError, match="Parallel: expected modules, got function at position 1"):
        nn.Parallel(nn.ReLU(), lambda x: x)
    with pytest.raises(ValueError, match="expected shapes that agree outside axis 1"):
        nn.Parallel(nn.ReLU(), nn.AvgPool2d(2))(images(1, 1, 4, 4))
    assert nn.Parallel(nn.ReLU(), nn.AvgPool2d(1))(images(2, 3, 4, 4)).shape == (2, 6, 4, 4)


def test_in_series_and_deep_in_a_network_with_average_pooling_behind():
    """Also on feature maps: gradients reach the layers in front, and the weights of every localisation network."""
    x = images(2, 1, 12, 12)
    x.requires_grad = True
    network = nn.Sequential(
        layer_near_the_identity("rotation", 144, output_size=16),
        nn.AvgPool2d(2),
        layer_near_the_identity("attention", 64),
        nn.Conv2d(1, 3, 3).double(),
        layer_near_the_identity("projective", 3 * 36, sampler="bicubic", padding_mode="border"),
        nn.Flatten(),
        nn.Linear(3 * 36, 2).double(),
    )
    assert network(x).shape == (2, 2)
    assert gradcheck(network, [x], directions=2)
    network(x).sum().backward()
    assert all(np.abs(parameter.grad.data).max() > 0 for parameter in network.parameters())


def test_average_pooling_behind_keeps_lines_that_sampling_alone_passes_over():
    """Eight columns to two: at x = -1/2 and 1/2 lie the middles between columns 1 and 2, and 5 and 6."""
    x = Tensor(np.zeros((1, 1, 8, 8)))
    x.data[..., 0] = 1  # a line on the left edge

    def identity(x):
        return Tensor(np.array([[1.0, 0, 0, 0, 1, 0]]))

    np.testing.assert_array_equal(nn.SpatialTransformer(identity, output_size=2)(x).data[0, 0], np.zeros((2, 2)))
    pooled = nn.Sequential(nn.SpatialTransformer(identity, output_size=8), nn.AvgPool2d(4))(x).data[0, 0]
    np.testing.assert_allclose(pooled, [[0.25, 0], [0.25, 0]], rtol=1e-12)


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
    with pytest.raises(ValueError, match=r"the 8 parameters of Projective\(\) .* shape \(3, 8\), got \(3, 6\)"):
        nn.SpatialTransformer(localisation(4), transform="projective")(x)
    with pytest.raises(ValueError, match=r"the 6 parameters of Affine\(\) .* shape \(3, 6\), got \(2, 6\)"):
        nn.SpatialTransformer(lambda x: Tensor(np.zeros((2, 6))))(x)
    with pytest.raises(ValueError, match=r"expected one of 'translation', .*'affine', .*'tps', got 'perspective'"):
        nn.SpatialTransformer(localisation(4), transform="perspective")
    with pytest.raises(TypeError, match="expected a transform, got the class Projective"):
        nn.SpatialTransformer(localisation(8), transform=nn.transforms.Projective)
    with pytest.raises(TypeError, match="expected a Transform or a name, got int"):
        nn.SpatialTransformer(localisation(4), transform=6)


def test_identity_needs_six_outputs_and_a_bias():
    with pytest.raises(ValueError, match="expected a Linear with 6 output features and a bias"):
        nn.identity_(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="expected a Linear with 6 output features and a bias"):
        nn.identity_(nn.Linear(3, 6, bias=False))
    with pytest.raises(ValueError, match="expected a Linear with 8 output features and a bias"):
        nn.identity_(nn.Linear(3, 6), "projective")
    with pytest.raises(TypeError, match="expected the last Linear of a localisation network, got ReLU"):
        nn.identity_(nn.ReLU())


def test_it_keeps_nothing_between_calls():
    layer = nn.SpatialTransformer(localisation(4))
    before = set(vars(layer))
    layer(images(3, 1, 2, 2, dtype=np.float32))
    assert set(vars(layer)) == before
