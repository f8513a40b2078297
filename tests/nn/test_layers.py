"""Layers on their own: options, modes, shapes and messages. Their values are compared in test_layers_torch.py."""

import numpy as np
import pytest

import ministn
from ministn import Tensor, gradcheck, nn
from ministn import functional as F


def normal(*shape, dtype=np.float64):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def test_linear_by_hand():
    layer = nn.Linear(2, 3)
    layer.weight.data[...] = [[1, 2], [3, 4], [5, 6]]
    layer.bias.data[...] = [0.5, 0, -0.5]
    np.testing.assert_array_equal(layer(Tensor([[1.0, 10.0]])).detach().numpy(), [[21.5, 43, 64.5]])
    assert nn.Linear(2, 3, bias=False).bias is None
    assert [name for name, _ in nn.Linear(2, 3, bias=False).named_parameters()] == ["weight"]


def test_sequential_calls_its_modules_in_order():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.Tanh())
    assert len(network) == 3
    assert isinstance(network[1], nn.Linear)
    assert network[-1] is list(network)[2]
    x = normal(4, 1, 2, 3, dtype=np.float32)
    expected = np.tanh(x.reshape(4, 6) @ network[1].weight.data.T + network[1].bias.data)
    # Two float32 products of six terms, summed in another order.
    np.testing.assert_allclose(network(Tensor(x)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match="Sequential: expected modules, got ufunc at position 1"):
        nn.Sequential(nn.ReLU(), np.tanh)


def test_flattening_batch_last_memory_is_free():
    image = np.moveaxis(normal(2, 3, 5, 4), -1, 0)  # shape (4, 2, 3, 5), N fastest
    assert np.shares_memory(nn.Flatten()(Tensor(image)).numpy(), image)


def test_dropout_only_in_training():
    ministn.manual_seed(0)
    ones = np.ones((200, 50), np.float32)
    layer = nn.Dropout(0.2)
    output = layer(Tensor(ones)).numpy()
    np.testing.assert_array_equal(np.unique(output), [0, np.float32(1.25)])
    assert (output == 0).mean() == pytest.approx(0.2, abs=0.016)  # four deviations sqrt(0.2 * 0.8 / 10000)
    np.testing.assert_array_equal(layer.eval()(Tensor(ones)).numpy(), ones)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout2d])
def test_dropout_of_everything(layer, dtype):
    x = Tensor(normal(2, 3, 4, 5, dtype=dtype), requires_grad=True)
    output = layer(p=1)(x)
    output.sum().backward()
    np.testing.assert_array_equal(output.detach().numpy(), np.zeros((2, 3, 4, 5), dtype), strict=True)
    np.testing.assert_array_equal(x.grad.numpy(), np.zeros((2, 3, 4, 5), dtype), strict=True)
    np.testing.assert_array_equal(layer(p=1).eval()(x).detach().numpy(), x.data)


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_never_overwrites_its_input(inplace):
    x = Tensor(np.array([-1.0, 2.0]))
    np.testing.assert_array_equal(nn.ReLU(inplace=inplace)(x).numpy(), [0, 2])
    np.testing.assert_array_equal(x.numpy(), [-1, 2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 8, 3, 1, 0, 1, 4),  # groups
        lambda: nn.ConvTranspose2d(4, 8, 3, 1, 0, 0, 4),
        lambda: nn.CoordConv2d(4, 8, 3, 1, 0, 1, 4),
        lambda: nn.MaxPool2d(3, 2, 1, 1),  # dilation
    ],
)
def test_places_where_pytorch_has_other_options_are_empty(make):
    with pytest.raises(TypeError, match="positional arguments"):
        make()


def test_dropout2d_drops_whole_channels():
    ministn.manual_seed(0)
    layer = nn.Dropout2d(0.5)
    output = layer(Tensor(np.ones((20, 10, 3, 5), np.float32))).numpy()
    assert set(np.unique(output[:, :, 0, 0])) == {0, 2}
    np.testing.assert_array_equal(output, np.broadcast_to(output[:, :, :1, :1], output.shape))
    np.testing.assert_array_equal(layer.eval()(Tensor(output)).numpy(), output)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradients(training):
    layer = nn.BatchNorm2d(3).double().train(training)
    layer.running_var.data[...] = [0.5, 1, 2]

    def function(x, weight, bias):
        layer.weight, layer.bias = None, None  # so that plain tensors may take their place
        layer.weight, layer.bias = weight, bias
        return layer(x)

    inputs = [normal(4, 3, 2, 5), normal(3) + 2, normal(3)]
    assert gradcheck(function, [Tensor(x, requires_grad=True) for x in inputs])


def test_batch_norm_of_vectors_takes_the_axes_that_it_names():
    layer = nn.BatchNorm1d(2)
    assert repr(layer) == "BatchNorm1d(2, eps=1e-05, momentum=0.1)"
    np.testing.assert_allclose(layer(Tensor(np.array([[1, 5], [3, 5]], np.float32))).data, [[-1, 0], [1, 0]], atol=1e-4)
    with pytest.raises(ValueError, match=r"BatchNorm1d: expected input of shape \(N, C\), got"):
        layer(Tensor(np.zeros((3, 2, 4, 5), np.float32)))
    with pytest.raises(ValueError, match="BatchNorm1d: expected axis C of input to be 2"):
        layer(Tensor(np.zeros((3, 4), np.float32)))


def test_batch_norm_without_momentum_averages_all_batches():
    layer, batches = nn.BatchNorm2d(3, momentum=None).double(), normal(5, 4, 3, 2, 7)
    assert repr(layer) == "BatchNorm2d(3, eps=1e-05, momentum=None)"
    for batch in batches:
        layer(Tensor(batch))
    # Means of five numbers, summed in another order in float64.
    np.testing.assert_allclose(layer.running_mean.data, batches.mean(axis=(0, 1, 3, 4)), rtol=1e-12)
    variances = batches.var(axis=(1, 3, 4), ddof=1)
    np.testing.assert_allclose(layer.running_var.data, variances.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("momentum", [-0.5, 1.5, np.nan, None])
def test_the_function_batch_norm_refuses_such_a_momentum(momentum):
    with pytest.raises(ValueError, match="batch_norm: expected momentum to be a number from 0 to 1, got"):
        F.batch_norm(Tensor(normal(4, 3)), *(Tensor(np.ones(3)) for _ in range(4)), training=True, momentum=momentum)


def test_batch_norm_counts_only_training_batches():
    layer = nn.BatchNorm2d(2)
    x = Tensor(normal(3, 2, 4, 5, dtype=np.float32))
    layer(x), layer(x)
    layer.eval()(x)
    assert layer.num_batches_tracked.item() == 2
    assert layer.num_batches_tracked.dtype == np.int64
    assert layer.running_mean.dtype == np.float32
    with pytest.raises(ValueError, match="axis C of input to be 2"):
        layer(Tensor(np.zeros((1, 3, 2, 2), np.float32)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3), "Linear: expected in_features to be at least 1, got 0"),
        (lambda: nn.Conv2d(1, 0, 3), "Conv2d: expected out_channels to be at least 1, got 0"),
        (lambda: nn.Conv2d(0, 1, 3), "Conv2d: expected in_channels to be at least 1, got 0"),
        (lambda: nn.Conv2d(1, 1, 0), "Conv2d: expected kernel_size to be at least 1, got 0"),
        (lambda: nn.ConvTranspose2d(0, 1, 3), "ConvTranspose2d: expected in_channels to be at least 1, got 0"),
        (lambda: nn.CoordConv2d(1, 1, 3, stride=0), "CoordConv2d: expected stride to be at least 1, got 0"),
        (lambda: nn.MaxPool2d(2, padding=-1), "MaxPool2d: expected padding to be at least 0, got -1"),
        (lambda: nn.Dropout(-0.1), "Dropout: expected a probability 0 <= p <= 1, got -0.1"),
        (lambda: nn.Dropout2d(1.5), "Dropout2d: expected a probability 0 <= p <= 1, got 1.5"),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: expected num_features to be at least 1, got 0"),
        (lambda: nn.BatchNorm1d(0), "BatchNorm1d: expected num_features to be at least 1, got 0"),
        (
            lambda: nn.BatchNorm2d(1, momentum=-0.1),
            "BatchNorm2d: expected momentum to be from 0 to 1, or None, got -0.1",
        ),
        (lambda: nn.BatchNorm2d(1, momentum=1.1), "BatchNorm2d: expected momentum to be from 0 to 1, or None, got 1.1"),
        (lambda: nn.BatchNorm2d(1, momentum=np.nan), "expected momentum to be from 0 to 1, or None, got nan"),
        (lambda: nn.CrossEntropyLoss("average"), "CrossEntropyLoss: expected reduction 'mean', 'sum' or 'none'"),
        (lambda: nn.MultiMarginLoss(p=3), "MultiMarginLoss: expected p to be 1 or 2, got 3"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_sequential_returns_its_input():
    x = Tensor(normal(2, 3))
    assert nn.Sequential()(x) is x


def test_sequential_joins_a_pooling_and_its_relu():
    """As if one by one, wherever the two stand, and only where ReLU follows at once."""
    x = ministn.tensor(np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32) - 0.5)
    pool, relu, flatten = nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()
    for modules in ([pool, relu], [pool, relu, relu, pool, relu, flatten], [pool, flatten, relu], [relu, pool], [pool]):
        expected = x
        for module in modules:
            expected = module(expected)
        np.testing.assert_array_equal(nn.Sequential(*modules)(x).data, expected.data)
