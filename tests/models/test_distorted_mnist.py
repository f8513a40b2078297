"""The networks of Table 1: how large they are, where they start, and what they refuse."""

import numpy as np
import pytest

from ministn import Tensor, nn
from ministn import functional as F
from ministn.models import DistortedMnistClassifier, DistortedMnistSTN, distorted_mnist, table1_model

# Units or filters, and parameters, on canvases of 28, 42 and 60 pixels: as the module's docstring has them.
CANVASES = (28, 42, 60)
TABLE = {
    ("FCN", None): ((349, 399_615), (202, 399_566), (107, 397_943)),
    ("CNN", None): ((89, 399_086), (87, 399_862), (79, 391_376)),
    ("ST-FCN", "affine"): ((331, 399_421), (309, 399_189), (245, 399_961)),
    ("ST-FCN", "projective"): ((331, 399_487), (309, 399_255), (244, 398_626)),
    ("ST-FCN", "tps"): ((330, 398_822), (308, 398_634), (244, 399_418)),
    ("ST-CNN", "affine"): ((87, 392_678), (87, 398_678), (84, 399_172)),
    ("ST-CNN", "projective"): ((87, 392_720), (87, 398_720), (84, 399_214)),
    ("ST-CNN", "tps"): ((87, 393_224), (87, 399_224), (84, 399_718)),
}
WIDTHS = {(canvas, *network): row[i] for network, row in TABLE.items() for i, canvas in enumerate(CANVASES)}
TRANSFORM_PARAMETERS = {None: 0, "affine": 6, "projective": 8, "tps": 32}
# By hand. Side of the image that the classifier sees, and of its last feature map: 28 -> 20 -> 10 -> 4 -> 2 and so on.
SIZES = {(28, 1): (28, 2), (42, 1): (42, 5), (42, 2): (28, 2), (60, 1): (60, 10), (60, 2): (30, 2)}
# Features of the convolutional localisation network before its dense layer: 20 maps of side 1, 4 and 9.
LOCALISATION_FEATURES = {28: 20, 42: 320, 60: 1620}


def noise(count, canvas):
    return Tensor(np.random.default_rng(8).standard_normal((count, 1, canvas, canvas)).astype(np.float32))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def transform_of(model):
    return "affine" if model.startswith("ST-") else None


def by_hand(model, transform, canvas, width, batch_norm, localisation_batch_norm):
    """The parameters of the paper's layers, from their sizes."""
    size, last = SIZES[canvas, 2 if model.startswith("ST-") and canvas > 28 else 1]
    if model.endswith("FCN"):
        total = (size**2 + 1) * width + (width + 1) * width + (width + 1) * 10
    else:
        total = (81 + 1) * width + (49 * width + 1) * width + (last**2 * width + 1) * 10
    total += 4 * width if batch_norm else 0
    if model == "ST-FCN":
        total += (
            (canvas**2 + 1) * 32
            + 33 * 32
            + 33 * TRANSFORM_PARAMETERS[transform]
            + (4 * 32 if localisation_batch_norm else 0)
        )
    if model == "ST-CNN":
        total += (
            26 * 20
            + (25 * 20 + 1) * 20
            + (LOCALISATION_FEATURES[canvas] + 1) * 20
            + 21 * TRANSFORM_PARAMETERS[transform]
        )
        total += 6 * 20 if localisation_batch_norm else 0
    return total


@pytest.mark.parametrize(("canvas", "name", "transform"), WIDTHS)
def test_the_widest_network_within_the_budget(canvas, name, transform):
    model = table1_model(name, transform, canvas)
    width, parameters = WIDTHS[canvas, name, transform]
    assert (model.width, count(model)) == (width, parameters)
    assert count(model) == by_hand(name, transform, canvas, width, False, False) <= 400_000
    assert by_hand(name, transform, canvas, width + 1, False, False) > 400_000
    network = " ".join(filter(None, (name, transform)))
    (line,) = (line for line in distorted_mnist.__doc__.splitlines() if line.startswith(f"| {network} |"))
    assert line.split(" | ")[1 + CANVASES.index(canvas)].removesuffix(" |") == f"{width} ({parameters:,})"


@pytest.mark.parametrize(("canvas", "name", "transform"), WIDTHS)
def test_normalisation_counts(canvas, name, transform):
    budget = 150_000
    model = table1_model(name, transform, canvas, budget, batch_norm=True, localisation_batch_norm=True)
    assert count(model) == by_hand(name, transform, canvas, model.width, True, True) <= budget
    assert by_hand(name, transform, canvas, model.width + 1, True, True) > budget


@pytest.mark.parametrize("name", ["FCN", "CNN", "ST-FCN", "ST-CNN"])
@pytest.mark.parametrize("canvas", [28, 42, 60])
def test_log_probabilities(name, canvas):
    model = table1_model(name, transform_of(name), canvas, 120_000, batch_norm=True, dropout=0.3)
    output = model.eval()(noise(3, canvas))
    assert (output.shape, output.dtype) == ((3, 10), np.float32)
    np.testing.assert_allclose(np.exp(output.detach().numpy()).sum(axis=1), np.ones(3), rtol=1e-5)  # ten float32 terms
    assert type(model) is (DistortedMnistSTN if name.startswith("ST-") else DistortedMnistClassifier)


@pytest.mark.parametrize("name", ["ST-FCN", "ST-CNN"])
@pytest.mark.parametrize(("canvas", "downsample"), [(28, None), (42, None), (60, None), (42, 1)])
def test_a_transformer_starts_with_the_identity(name, canvas, downsample):
    model, x = table1_model(name, "affine", canvas, 150_000, downsample=downsample), noise(3, canvas)
    np.testing.assert_array_equal(model.theta(x).detach().numpy(), np.tile(np.eye(2, 3), (3, 1, 1)))
    expected = x
    if (canvas, downsample) == (42, None):  # enlarged to 56 pixels, as half of 42 would be too few for the classifier
        expected = F.grid_sample(
            x, F.affine_grid(Tensor(np.tile(np.eye(2, 3, dtype=np.float32), (3, 1, 1))), (3, 1, 56, 56))
        )
    # A pixel's coordinate may be off by a rounding: canvas * 1e-7, times differences of neighbours of up to 7.
    np.testing.assert_allclose(model.stn(x).detach().numpy(), expected.numpy(), atol=5e-5)
    pooled = expected if canvas == 28 or downsample == 1 else F.avg_pool2d(expected, 2)
    scores = F.log_softmax(model.classifier(pooled), dim=1)
    np.testing.assert_allclose(model(x).detach().numpy(), scores.detach().numpy(), atol=1e-4)  # what is left of that


@pytest.mark.parametrize("canvas", [28, 42, 60])
def test_fewer_filters_in_the_first_convolution_leave_more_for_the_second(canvas):
    def weights(second):
        last = SIZES[canvas, 1][1]
        return (81 + 1) * 32 + (49 * 32 + 1) * second + (last**2 * second + 1) * 10 + 2 * (32 + second)

    model = table1_model("CNN", None, canvas, batch_norm=True, first_filters=32)
    convolutions = [module for module in model.classifier if isinstance(module, nn.Conv2d)]
    assert [module.weight.shape[0] for module in convolutions] == [32, model.width]
    assert count(model) == weights(model.width) <= 400_000 < weights(model.width + 1)
    assert table1_model("FCN", first_filters=32).width == WIDTHS[28, "FCN", None][0]


def test_options_that_are_off_in_the_papers_setting():
    def kinds(**options):
        return [type(module).__name__ for module in table1_model("CNN", parameters=50_000, **options).classifier]

    assert kinds() == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU", "Flatten", "Linear"]
    assert kinds(batch_norm=True, dropout=0.5) == [
        *("Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"),
        *("Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"),
        *("Flatten", "Dropout", "Linear"),
    ]
    assert table1_model("CNN", width_multiple=16).width == 80
    assert table1_model("FCN", canvas=60, downsample=2).width == 323  # on 30 x 30 pixels


def test_the_parameters_split_in_two():
    model = table1_model("ST-CNN", "affine", parameters=60_000, batch_norm=True)
    localisation, classifier = (
        {id(parameter) for parameter in parameters}
        for parameters in (model.localisation_parameters(), model.classifier_parameters())
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert localisation | classifier == set(names)
    assert {names[key].split(".")[0] for key in localisation} == {"transformer"}
    assert {names[key].split(".")[0] for key in classifier} == {"classifier"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MLP",), "expected model to be one of FCN, CNN, ST-FCN, ST-CNN, got 'MLP'"),
        (("ST-CNN",), "ST-CNN needs a transform, such as 'affine'"),
        (("CNN", "affine"), "CNN has no transformer, but got the transform 'affine' for one"),
        (("ST-CNN", "shear"), "'shear'"),
        (("CNN", None, 20), "expected at least 24 x 24 pixels for convolutions of 9 x 9 and 7 x 7, got 20 x 20"),
        (("ST-CNN", "affine", 26), "expected a canvas of at least 28 x 28 for the localisation network, got 26 x 26"),
        (("CNN", None, 0), "expected canvas to be at least 1, got 0"),
        (("FCN", None, 28, 700), "expected at least 807 parameters for width 1, got 700"),
        (("ST-FCN", "affine", 60, 110_000), "expected at least 117409 parameters for width 1, got 110000"),
    ],
)
def test_what_cannot_be_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        table1_model(*arguments)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="expected downsample to be at most 28, got 29"):
        table1_model("FCN", downsample=29)
    with pytest.raises(ValueError, match="expected downsample to be at most 20, got 21"):
        table1_model("ST-FCN", "affine", output_size=20, downsample=21)
    with pytest.raises(ValueError, match="CNN has no transformer, but got the output_size 28 for one"):
        table1_model("CNN", output_size=28)


def test_a_transformer_may_return_another_size():
    model = table1_model("ST-CNN", "affine", parameters=60_000, output_size=64, downsample=2)
    assert model.stn(noise(2, 28)).shape == (2, 1, 64, 64)
    assert model(noise(2, 28)).shape == (2, 10)


def test_images_of_another_canvas():
    with pytest.raises(ValueError, match=r"expected images of shape \(N, 1, 42, 42\), got \(2, 1, 28, 28\)"):
        table1_model("CNN", canvas=42, parameters=20_000)(noise(2, 28))
    with pytest.raises(ValueError, match=r"DistortedMnistSTN: expected images of shape"):
        table1_model("ST-CNN", "affine", parameters=20_000).theta(noise(2, 42))


@pytest.mark.parametrize(("transform", "numbers"), [("affine", 6), ("projective", 8), ("tps", 32)])
@pytest.mark.parametrize("name", ["ST-FCN", "ST-CNN"])
def test_every_transform_starts_with_the_identity(name, transform, numbers):
    model, x = table1_model(name, transform, parameters=150_000), noise(3, 28)
    assert model.localisation_parameters()[-1].shape == (numbers,)
    np.testing.assert_allclose(model.stn(x).detach().numpy(), x.numpy(), atol=5e-5)  # as above
