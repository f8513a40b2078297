"""The networks of the CoordConv paper: how large they are, what goes in and comes out, and what they can express."""

import itertools

import numpy as np
import pytest

import ministn
from ministn import Tensor, nn
from ministn.data import not_so_clevr as data
from ministn.models import not_so_clevr_model


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def transposed(size, multiple):
    """By hand: weights and biases of six layers, gamma and beta after five."""
    widths = [2, *(multiple * width for width in (64, 64, 64, 32, 32)), 1]
    taps = sum(a * b for a, b in itertools.pairwise(widths)) * size**2
    return taps + sum(widths[1:]) + 2 * sum(widths[1:-1])


@pytest.mark.parametrize(
    ("task", "layer", "options", "expected"),
    [
        ("classification", "coordconv", {}, 7_553),  # as counted in the paper's code
        ("regression", "coordconv", {}, 906),  # likewise
        ("classification", "conv", {"filter_size": 2, "multiple": 1}, 46_465),
        ("classification", "conv", {"filter_size": 4, "multiple": 3}, 1_632_001),
        ("rendering", "conv", {}, transposed(3, 2)),
        ("rendering", "coordconv", {"filter_size": 1, "multiple": 1}, 8_074),
        ("rendering", "coordconv", {}, 7_553 + (16 + 16 * 16 + 16 * 32 + 32 * 32 + 32) * 9 + 16 + 16 + 32 + 32 + 1),
        ("regression", "conv", {"multiple": 1}, 160 + 3 * (9 * 256 + 16) + 1024 * 64 + 64 + 130),
        (
            "regression",
            "conv",
            {"split": "quadrant", "multiple": 1},
            416 + 2 * 272 + 5 * (9 * 256 + 16) + (9 * 32 + 2) + 2 * 32,
        ),
    ],
)
def test_number_of_parameters(task, layer, options, expected):
    assert count(not_so_clevr_model(task, layer, **options)) == expected


def test_softmax_before_the_painting_is_all_that_the_option_changes():
    kinds = [
        [type(layer).__name__ for layer in not_so_clevr_model("rendering", "coordconv", "uniform", 1, 1, softmax)]
        for softmax in (True, False)
    ]
    assert kinds[0].count("SoftmaxOfPixels") == 1
    assert [kind for kind in kinds[0] if kind != "SoftmaxOfPixels"] == kinds[1]


@pytest.mark.parametrize(("size", "multiple"), [(2, 1), (3, 1), (3, 2), (4, 3)])
def test_parameters_of_the_transposed_convolutions_by_hand(size, multiple):
    assert count(not_so_clevr_model("classification", "conv", "uniform", size, multiple)) == transposed(size, multiple)


@pytest.mark.parametrize("split", data.SPLITS)
@pytest.mark.parametrize("layer", ["conv", "coordconv"])
@pytest.mark.parametrize(("task", "outputs"), [("classification", 4096), ("rendering", 4096), ("regression", 2)])
def test_shapes_and_gradients(task, layer, split, outputs):
    ministn.manual_seed(0)
    model = not_so_clevr_model(task, layer, split, 3, 1)
    centres = data.centres()[:2]
    x = data.one_hot(centres)[:, None] / 255 if task == "regression" else centres
    output = model(Tensor(x.astype(np.float32)))
    assert output.shape == (2, outputs)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_values_are_those_of_he():
    ministn.manual_seed(0)
    model = not_so_clevr_model("classification", "conv", filter_size=3, multiple=2)
    weights = [layer.weight.data for layer in model if isinstance(layer, nn.ConvTranspose2d)]
    assert weights[1].std() == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.01)  # 147,456 draws: sigma / 540
    assert all((layer.bias.data == 0).all() for layer in model if isinstance(layer, nn.ConvTranspose2d))


def test_a_coordconv_can_find_the_pixel_that_it_is_told():
    """By hand: |x - x'| and |y - y'| from pairs of ReLUs; the logit falls with them. No training, all 3136 right."""
    model = not_so_clevr_model("classification", "coordconv")
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        layer.weight.data[...] = 0
    pixels = 63 / 2  # of a unit of the coordinates, which go from -1 to 1
    for k, (axis, sign) in enumerate([(0, 1), (0, -1), (1, 1), (1, -1)]):
        layers[0].weight.data[k, axis], layers[0].weight.data[k, 2 + axis] = sign, -sign * pixels
        layers[0].bias.data[k] = -sign * pixels
    for layer in layers[1:-1]:
        layer.weight.data[range(4), range(4)] = 1
    layers[-1].weight.data[0, :4] = -1
    centres = data.centres()[::5]
    logits = model(Tensor(centres.astype(np.float32))).data
    np.testing.assert_array_equal(logits.argmax(axis=1), data.labels(centres))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drawing", "conv"), "expected task to be one of 'classification', 'rendering', 'regression', got 'drawing'"),
        (("rendering", "dense"), "expected layer to be one of 'conv', 'coordconv', got 'dense'"),
        (("rendering", "conv", "uniform", 5), "expected filter_size to be 2, 3 or 4, got 5"),
        (("rendering", "coordconv", "uniform", 2), "expected filter_size to be odd, got 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"not_so_clevr_model: {message}"):
        not_so_clevr_model(*arguments)
