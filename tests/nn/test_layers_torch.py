"""Every layer and loss against PyTorch: outputs, gradients of input and parameters, buffers."""

import numpy as np
import pytest

import ministn
from ministn import Tensor, nn

torch = pytest.importorskip("torch")

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}  # rounding of sums of up to some 500 terms of magnitude 1

LAYERS = {
    "linear": (lambda m: m.Linear(5, 7), (6, 5)),
    "linear without bias": (lambda m: m.Linear(5, 7, bias=False), (6, 5)),
    "conv": (lambda m: m.Conv2d(3, 4, 3), (5, 3, 9, 6)),
    "conv, all options": (
        lambda m: m.Conv2d(2, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
        (3, 2, 11, 8),
    ),
    "transposed conv": (lambda m: m.ConvTranspose2d(3, 4, 3, 2, 1, 1), (5, 3, 4, 6)),
    "transposed conv, all options": (
        lambda m: m.ConvTranspose2d(2, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 4), bias=False),
        (3, 2, 5, 8),
    ),
    "max pool": (lambda m: m.MaxPool2d(2), (3, 2, 8, 7)),
    "max pool of the whole image": (lambda m: m.MaxPool2d((8, 7)), (3, 2, 8, 7)),
    "max pool, all options": (lambda m: m.MaxPool2d((3, 2), stride=2, padding=1, ceil_mode=True), (3, 2, 9, 6)),
    "avg pool": (lambda m: m.AvgPool2d(2), (3, 2, 8, 7)),
    "avg pool, all options": (
        lambda m: m.AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (3, 2, 9, 6),
    ),
    "relu": (lambda m: m.ReLU(), (4, 3)),
    "tanh": (lambda m: m.Tanh(), (4, 3)),
    "sigmoid": (lambda m: m.Sigmoid(), (4, 3)),
    "flatten": (lambda m: m.Flatten(), (4, 3, 2, 5)),
    "flatten, all options": (lambda m: m.Flatten(0, 2), (4, 3, 2, 5)),
    "batch norm": (lambda m: m.BatchNorm2d(3, eps=1e-3, momentum=0.3), (4, 3, 5, 2)),
    "batch norm, cumulative": (lambda m: m.BatchNorm2d(3, momentum=None), (4, 3, 5, 2)),
    "batch norm, vectors": (lambda m: m.BatchNorm1d(3, eps=1e-3, momentum=0.3), (5, 3)),
    "batch norm, sequences": (lambda m: m.BatchNorm1d(3), (4, 3, 7)),
    "sequential": (lambda m: m.Sequential(m.Flatten(), m.Linear(6, 4), m.Tanh(), m.Linear(4, 2)), (3, 1, 2, 3)),
}


def compare(ours, theirs, dtype, what):
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=what)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype):
    make, shape = LAYERS[name]
    random = np.random.default_rng(5)
    ours, theirs = make(nn).astype(dtype), make(torch.nn).to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        x = random.standard_normal(shape).astype(dtype)
        our_x, their_x = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        our_y, their_y = ours(our_x), theirs(their_x)
        grad = random.standard_normal(tuple(their_y.shape)).astype(dtype)
        assert our_y.dtype == dtype
        compare(our_y.detach().numpy(), their_y.detach().numpy(), dtype, "output")
        ours.zero_grad()
        theirs.zero_grad()
        our_y.backward(grad)
        their_y.backward(torch.from_numpy(grad))
        compare(our_x.grad.numpy(), their_x.grad.numpy(), dtype, "gradient of the input")
        for (key, our_parameter), their_parameter in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            compare(our_parameter.grad.numpy(), their_parameter.grad.numpy(), dtype, f"gradient of {key}")
        for (key, our_value), their_value in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            compare(our_value.numpy(), their_value.numpy(), dtype, key)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batch_norm_over_several_batches_without_momentum(dtype):
    ours = nn.BatchNorm2d(3, momentum=None).astype(dtype)
    theirs = torch.nn.BatchNorm2d(3, momentum=None).to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    for batch in np.random.default_rng(8).standard_normal((4, 5, 3, 2, 7)).astype(dtype):
        ours(Tensor(batch))
        theirs(torch.from_numpy(batch))
        for (key, our_value), their_value in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            compare(our_value.numpy(), their_value.numpy(), dtype, key)
    assert ours.running_mean.dtype == dtype


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d"])
def test_dropout_of_everything(name):
    x = np.random.default_rng(9).standard_normal((2, 3, 4, 5))
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    our_y, their_y = getattr(nn, name)(p=1)(ours), getattr(torch.nn, name)(p=1)(theirs)
    our_y.sum().backward()
    their_y.sum().backward()
    np.testing.assert_array_equal(our_y.detach().numpy(), their_y.detach().numpy())
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


LOSSES = {
    "cross entropy": lambda m, **options: m.CrossEntropyLoss(**options),
    "smoothed cross entropy": lambda m, **options: m.CrossEntropyLoss(label_smoothing=0.3, **options),
    "nll": lambda m, **options: m.NLLLoss(**options),
    "mse": lambda m, **options: m.MSELoss(**options),
    "smooth l1": lambda m, **options: m.SmoothL1Loss(beta=0.5, **options),
    "binary cross entropy": lambda m, **options: m.BCEWithLogitsLoss(**options),
    "hinge": lambda m, **options: m.MultiMarginLoss(**options),
    "squared hinge": lambda m, **options: m.MultiMarginLoss(p=2, margin=0.7, **options),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, reduction, dtype):
    random = np.random.default_rng(6)
    scores = random.standard_normal((7, 4)).astype(dtype)
    of_pixels = name in ("mse", "smooth l1", "binary cross entropy")
    target = random.uniform(size=(7, 4)).astype(dtype) if of_pixels else random.integers(0, 4, 7)
    ours, theirs = Tensor(scores, requires_grad=True), torch.tensor(scores, requires_grad=True)
    our_loss = LOSSES[name](nn, reduction=reduction)(ours, target)
    their_loss = LOSSES[name](torch.nn, reduction=reduction)(theirs, torch.from_numpy(target))
    compare(our_loss.detach().numpy(), their_loss.detach().numpy(), dtype, "loss")
    grad = np.asarray(random.standard_normal(tuple(their_loss.shape)), dtype)
    our_loss.backward(grad)
    their_loss.backward(torch.from_numpy(grad))
    compare(ours.grad.numpy(), theirs.grad.numpy(), dtype, "gradient")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("radius", [False, True])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (7, 7)])
def test_coord_conv_is_a_convolution_of_image_and_coordinates(height, width, radius, dtype):
    """Values, and the gradients for image, weight and bias."""
    random = np.random.default_rng(7)
    image = random.standard_normal((3, 2, height, width)).astype(dtype)
    layer = nn.CoordConv2d(2, 4, 3, stride=(1, 2), padding=1, radius=radius).astype(dtype)
    ours = Tensor(image, requires_grad=True)
    output = layer(ours)
    grad = random.standard_normal(output.shape).astype(dtype)
    output.backward(grad)

    x, y = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in (width, height))
    y, x = torch.meshgrid(y, x, indexing="ij")
    coordinates = torch.stack([x, y, torch.sqrt(x * x + y * y)][: 3 if radius else 2])
    arrays = image, layer.weight.data, layer.bias.data
    theirs = [torch.from_numpy(array).double().requires_grad_() for array in arrays]
    stacked = torch.cat([theirs[0], coordinates.expand(3, -1, -1, -1)], dim=1)
    expected = torch.nn.functional.conv2d(stacked, *theirs[1:], stride=(1, 2), padding=1)
    expected.backward(torch.from_numpy(grad).double())
    compare(output.detach().numpy(), expected.detach().numpy(), dtype, "output")
    for what, mine, other in zip(("image", "weight", "bias"), (ours, layer.weight, layer.bias), theirs, strict=True):
        compare(mine.grad.numpy(), other.grad.numpy(), dtype, f"gradient of the {what}")


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"])
def test_initialisers_have_pytorchs_scale(name):
    ministn.manual_seed(0)
    torch.manual_seed(0)
    ours = getattr(nn.init, name)(Tensor(np.empty((60, 50, 3, 5)))).numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(60, 50, 3, 5)).numpy()
    # Two deviations of 45000 draws each differ by about 1 / sqrt(n) = 0.5 %: four of these.
    assert ours.std() == pytest.approx(float(theirs.std()), rel=0.02)
