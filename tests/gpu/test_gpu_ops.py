"""Every operation, layer, loss and optimiser on arrays of the GPU, against the CPU: values and gradients.

The arrays are those of the stand-in for CuPy, with the kernels on the emulator, and of CuPy where there is a GPU. What
comes out is compared with what the loops and NumPy compute on the CPU, which their own tests hold to be right.
"""

from __future__ import annotations

import numpy as np
import pytest

import ministn
import ministn.functional as F
from ministn import gradcheck, nn, optim
from ministn.autodiff import Tensor

RANDOM = np.random.default_rng(5)
LABELS = np.array([2, 0, 1, 2, 2])

OPS = {
    "add a number": (lambda x: 2 + x, (3, 4)),
    "add broadcast": (lambda x, y: x + y, (3, 4), (4,)),
    "subtract": (lambda x, y: x - y, (3, 4), (3, 1)),
    "subtract from a number": (lambda x: 1.5 - x, (3, 4)),
    "multiply": (lambda x, y: x * y, (2, 3, 4), (3, 1)),
    "divide": (lambda x, y: x / (2 + y * y), (3, 4), (3, 4)),
    "negate": (lambda x: -x, (3, 4)),
    "square": (lambda x: x**2, (3, 4)),
    "power 0": (lambda x: x**0, (3, 4)),
    "matmul": (lambda x, y: x @ y, (2, 3, 4), (4, 5)),
    "reshape": (lambda x: x.reshape(6, 2), (3, 4)),
    "flatten": (lambda x: F.flatten(x, 1), (3, 4, 2)),
    "permute": (lambda x: x.permute(2, 0, 1) * 2, (3, 4, 2)),
    "transpose": (lambda x: x.T @ x, (3, 4)),
    "a part": (lambda x: x[1:, ::2], (3, 4)),
    "rows by number": (lambda x: x[np.array([0, 2, 0])], (3, 4)),  # row 0 twice
    "rows by list": (lambda x: x[[2, 1]], (3, 4)),
    "elements by tensor": (lambda x: x[Tensor(np.array([0, 1])).to(x.device), 1], (3, 4)),
    "concatenate": (lambda x, y: F.concatenate([x, y], dim=1), (2, 3, 4), (2, 1, 4)),
    "astype": (lambda x: x.astype(np.float64), (3, 4)),
    "sum": (lambda x: x.sum(), (3, 4)),
    "sum of an axis": (lambda x: x.sum(1, keepdim=True), (3, 4)),
    "mean": (lambda x: x.mean((0, 2)), (3, 4, 2)),
    "max": (lambda x: x.max(1), (3, 4)),
    "relu": (lambda x: x.relu(), (3, 4)),
    "tanh": (lambda x: x.tanh(), (3, 4)),
    "sigmoid": (lambda x: x.sigmoid(), (3, 4)),
    "exp": (lambda x: x.exp(), (3, 4)),
    "log": (lambda x: (x * x + 1).log(), (3, 4)),
    "sin": (lambda x: x.sin(), (3, 4)),
    "cos": (lambda x: x.cos(), (3, 4)),
    "xlogx": (lambda x: F.xlogx(x * x), (3, 4)),
    "inverse": (lambda x: F.inverse(x + Tensor(4 * np.eye(3, dtype=x.dtype)).to(x.device)), (4, 3, 3)),
    "softmax": (lambda x: x.softmax(1), (5, 3)),
    "log_softmax of axis 0": (lambda x: F.log_softmax(x, 0), (5, 3)),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), (5, 3)),
    "cross_entropy, labels there": (lambda x: F.cross_entropy(x, Tensor(LABELS).to(x.device), "none"), (5, 3)),
    "nll_loss": (lambda x: F.nll_loss(x, LABELS, "sum"), (5, 3)),
    "mse_loss": (lambda x, y: F.mse_loss(x, y), (3, 4), (3, 4)),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, (3, 4), (3, 4)),
    "smooth_l1_loss": (F.smooth_l1_loss, (3, 4), (3, 4)),
    "cross_entropy, smoothed": (lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.2), (5, 3)),
    "multi_margin_loss": (lambda x: F.multi_margin_loss(x, LABELS, p=2), (5, 3)),
    "linear": (F.linear, (3, 4), (5, 4), (5,)),
    "linear of one row, no bias": (F.linear, (1, 4), (5, 4)),
    "linear of a batch-last view": (lambda x, w: F.linear(x.T, w), (4, 3), (5, 4)),
    "affine_grid": (lambda x: F.affine_grid(x, (2, 1, 5, 3)), (2, 2, 3)),
    "projective_grid": (lambda x: F.projective_grid(x, (2, 1, 5, 3)), (2, 3, 3)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1), (2, 3, 7, 6), (4, 3, 3, 2), (4,)),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
        (2, 3, 5, 4),
        (3, 4, 3, 2),
        (4,),
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (2, 3, 6, 5)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 3, 6, 5)),
    "grid_sample": (lambda x, g: F.grid_sample(x, g), (2, 3, 6, 5), (2, 4, 3, 2)),
    "spatial_transform": (lambda x, t: F.spatial_transform(x, t, (4, 3)), (2, 3, 6, 5), (2, 2, 3)),
}
TRANSFORMS = [
    *[nn.transforms.get(name) for name in ("translation", "rotation", "attention", "similarity", "affine")],
    nn.transforms.Projective(),
    nn.transforms.ThinPlateSpline(),
    nn.transforms.Bounded("affine", 0.3),
    nn.transforms.Compose("rotation", "projective", "affine"),
    nn.transforms.Compose("projective", "tps", "projective"),
]


def near_identity(layer, transform):
    """A Linear that answers with parameters near the identity's: they differ less between float32's roundings."""
    weight = 0.05 * layer.weight.data
    nn.identity_(layer, transform)
    layer.weight.data[...] = weight
    return layer


LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 2, 6, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, bias=False), (2, 2, 6, 5)),
    "CoordConv2d": (lambda: nn.CoordConv2d(2, 3, 3, radius=True), (2, 2, 6, 5)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 5)),
    "BatchNorm2d, all batches alike": (lambda: nn.BatchNorm2d(3, momentum=None), (4, 3, 2, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "Dropout": (lambda: nn.Dropout(0.4), (5, 7)),
    "Dropout2d": (lambda: nn.Dropout2d(0.4), (5, 7, 2, 3)),
    "MaxPool2d and ReLU": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()), (2, 3, 6, 5)),
    "AvgPool2d, Tanh, Sigmoid": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Tanh(), nn.Sigmoid()), (2, 3, 6, 5)),
    "SpatialTransformer": (
        lambda: nn.SpatialTransformer(nn.Sequential(nn.Flatten(), nn.Linear(30, 6))),
        (2, 1, 6, 5),
    ),
    "SpatialTransformers of all transforms": (
        lambda: nn.Parallel(
            *[
                nn.SpatialTransformer(
                    nn.Sequential(nn.Flatten(), near_identity(nn.Linear(30, transform.num_parameters), transform)),
                    transform,
                    padding_mode="border",
                )
                for transform in TRANSFORMS
            ]
        ),
        (2, 1, 6, 5),
    ),
}
OPTIMISERS = {
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.1, weight_decay=0.01),
    "SGD with Nesterov's momentum": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda parameters: optim.Adam(parameters, lr=0.1, weight_decay=0.01),
    "AdamW": lambda parameters: optim.AdamW(parameters, lr=0.1, weight_decay=0.01),
}
# A few roundings of sums of up to 60 numbers; float32 has 6e-8 between neighbours.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-13}


def same(result, expected, dtype):
    assert result.dtype == expected.dtype
    scale = max(1.0, np.abs(expected).max(initial=0))  # of the numbers that a sum near 0 may be made of
    np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale)


def random_tensors(shapes, dtype):
    return [np.random.default_rng(i).normal(size=shape).astype(dtype) for i, shape in enumerate(shapes)]


def value_and_gradients(function, arrays, device):
    """What `function` returns on `device`, and the gradients of a weighted sum of it."""
    tensors = [Tensor(array).to(device) for array in arrays]
    for tensor in tensors:
        tensor.requires_grad = True
    output = function(*tensors)
    assert output.device == device
    weights = Tensor(np.random.default_rng(9).normal(size=output.shape).astype(output.dtype)).to(device)
    output.backward(weights)
    assert all(tensor.grad.device == device for tensor in tensors)
    return [output.detach().numpy(), *[tensor.grad.numpy() for tensor in tensors]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPS)
def test_operation(library, name, dtype):
    function, *shapes = OPS[name]
    arrays = random_tensors(shapes, dtype)
    results = value_and_gradients(function, arrays, "gpu")
    for result, expected in zip(results, value_and_gradients(function, arrays, "cpu"), strict=True):
        same(result, expected, dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(library, name):
    make, shape = LAYERS[name]
    (array,) = random_tensors([shape], np.float32)
    results = {}
    for device in ("cpu", "gpu"):
        ministn.manual_seed(3)
        layer = make().to(device)
        ministn.manual_seed(4)  # of the dropout
        outputs = value_and_gradients(layer, [array], device)
        gradients = [parameter.grad.numpy() for parameter in layer.parameters()]
        in_use = layer.eval()(Tensor(array).to(device)).detach().numpy()
        results[device] = [*outputs, *gradients, *[buffer.numpy() for buffer in layer.buffers()], in_use]
        assert {tensor.device for tensor in layer.state_dict().values()} <= {device}
    for result, expected in zip(results["gpu"], results["cpu"], strict=True):
        same(result, expected, np.float32)


def moved(name, devices, dtype):
    """Parameters after one step on each of `devices`, moving between them."""
    start = random_tensors([(3, 4), (5,)], dtype)
    parameters = [nn.Parameter(array) for array in start]
    model = nn.Module()
    model.first, model.second = parameters
    optimizer = OPTIMISERS[name](parameters)
    for step, device in enumerate(devices):
        model.to(device)
        for parameter, scale in zip(parameters, (1.0, -0.3), strict=True):
            parameter.grad = Tensor(parameter.data * (scale + step)).detach()
        optimizer.step()
    assert all(parameter.device == devices[-1] for parameter in parameters)
    return [parameter.numpy() for parameter in map(Tensor.detach, parameters)], optimizer.state_dict()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("devices", ["gpu gpu gpu", "cpu gpu cpu", "gpu cpu gpu"])
def test_optimiser(library, name, devices, dtype):
    """Also after its parameters moved: what it remembers of them follows."""
    arrays, state = moved(name, devices.split(), dtype)
    expected, expected_state = moved(name, ["cpu"] * 3, dtype)
    for array, expected_array in zip(arrays, expected, strict=True):
        same(array, expected_array, dtype)
    assert state["state"].keys() == expected_state["state"].keys()
    for index, values in state["state"].items():
        for slot, value in values.items():
            assert isinstance(value, int | np.ndarray)
            same(np.asarray(value), np.asarray(expected_state["state"][index][slot]), dtype)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rate", [1, np.float64(0.25), np.float32(0.25)])
def test_a_learning_rate_may_be_any_number(library, name, rate):
    """As somebody may set it between two steps; a kernel would take its bytes for those of a float."""
    results = {}
    for device in ("cpu", "gpu"):
        weight = nn.Parameter(Tensor(np.array([1.0, -2.0], np.float32)).to(device).data)
        optimizer = OPTIMISERS[name]([weight])
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(2):
            weight.grad = Tensor(weight.data * 0.5)
            optimizer.step()
        results[device] = weight.detach().numpy()
    same(results["gpu"], results["cpu"], np.float32)


def test_an_optimiser_loads_its_state_onto_the_device_of_the_parameters(library):
    for name in ("AdamW", "SGD with Nesterov's momentum"):
        state = moved(name, ["cpu"], np.float32)[1]
        parameters = [Tensor(array).to("gpu").detach() for array in random_tensors([(3, 4), (5,)], np.float32)]
        optimizer = OPTIMISERS[name](parameters)
        optimizer.load_state_dict(state)
        for parameter in parameters:
            arrays = [value for value in optimizer.state[parameter].values() if not isinstance(value, int)]
            assert arrays
            assert all(isinstance(value, library.ndarray) for value in arrays)


def test_moving_a_tensor_is_differentiable(library):
    x = Tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    there = x.to("gpu")
    assert isinstance(there.data, library.ndarray)
    assert there.to("gpu") is there
    (there * there).cpu().sum().backward()
    np.testing.assert_array_equal(x.grad.data, 2 * x.data)
    assert x.grad.device == "cpu"


def test_images_are_nchw_on_the_gpu(library):
    batch_last = np.arange(24.0).reshape(3, 2, 2, 2).transpose(3, 0, 1, 2)
    there = Tensor(batch_last).to("gpu")
    assert there.data.flags.c_contiguous
    np.testing.assert_array_equal(there.numpy(), batch_last)


def test_a_module_moves_with_its_gradients_and_buffers(library):
    layer = nn.BatchNorm2d(2)
    layer.weight.grad = Tensor([1.0, 2.0])
    weight = layer.weight
    assert layer.to("gpu") is layer
    tensors = [weight, weight.grad, layer.bias, *layer.buffers()]
    assert {tensor.device for tensor in tensors} == {"gpu"}
    assert layer.weight is weight
    assert weight.is_leaf
    layer.to("cpu")
    assert {tensor.device for tensor in [weight, weight.grad, *layer.buffers()]} == {"cpu"}
    np.testing.assert_array_equal(weight.grad.data, [1, 2])


def test_state_loads_across_devices(library):
    here, there = nn.Linear(3, 2), nn.Linear(3, 2).to("gpu")
    there.load_state_dict(here.state_dict())
    np.testing.assert_array_equal(there.weight.detach().numpy(), here.weight.data)
    there.weight.data *= 2
    here.load_state_dict(there.state_dict())
    assert here.weight.device == "cpu"
    np.testing.assert_array_equal(there.weight.detach().numpy(), here.weight.data)


def test_gradcheck_on_the_gpu(library):
    x = Tensor(RANDOM.normal(size=(2, 2, 3))).to("gpu").detach()
    x.requires_grad = True
    assert gradcheck(lambda theta: F.affine_grid(theta, (2, 1, 3, 4)).tanh(), [x])


def test_clipping_reads_the_norm_once(cupy):
    gradients = random_tensors([(3, 4), (5,), (2, 2)], np.float32)
    norms, clipped = [], []
    for device in ("cpu", "gpu"):
        parameters = [Tensor(np.zeros_like(array)).to(device) for array in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = Tensor(gradient).to(device)
        cupy._stand_in.counts.clear()
        norms.append(nn.utils.clip_grad_norm_(parameters, 0.5))
        assert cupy._stand_in.counts["d2h"] == (device == "gpu")
        nn.utils.clip_grad_value_(parameters, 0.05)
        clipped.append([parameter.grad.numpy() for parameter in parameters])
    assert norms[0] == pytest.approx(norms[1], rel=1e-15)
    for cpu, gpu in zip(*clipped, strict=True):
        same(gpu, cpu, np.float32)


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_beside_tensors(number, library):
    x = Tensor(np.array([1.0, -3.0], np.float32)).to("gpu")
    for result in (x * number, number * x):
        assert (result.device, result.dtype) == ("gpu", np.float32)
        np.testing.assert_array_equal(result.numpy(), [2, -6])


def test_comparisons_and_argmax(library):
    array = np.array([[1.0, 5.0, 2.0], [4.0, 0.0, 3.0]], np.float32)
    x = Tensor(array).to("gpu")
    np.testing.assert_array_equal((x > 2).numpy(), array > 2)
    np.testing.assert_array_equal((x == x.max()).numpy(), array == 5)
    np.testing.assert_array_equal(x.argmax(1).numpy(), [1, 0])
    assert repr(x) == repr(Tensor(array))


def test_labels_stay_with_the_scores(library):
    labels = Tensor(LABELS).to("gpu")
    with pytest.raises(TypeError, match="nll_loss: expected labels on the cpu, where the scores are"):
        F.nll_loss(Tensor(np.zeros((5, 3))), labels)
    with pytest.raises(ValueError, match="nll_loss: expected labels 0 to 2, got 0 to 3"):
        F.nll_loss(Tensor(np.zeros((5, 3))).to("gpu"), np.array([0, 1, 2, 3, 0]))


@pytest.mark.parametrize("loss", [F.nll_loss, F.cross_entropy])
def test_a_wrong_label_on_the_gpu_makes_its_loss_nan(loss, library):
    """An error would have to wait for the device; the trainer finds the NaN when it reads the loss."""
    labels = Tensor(np.array([0, 3, 2, -1, 1])).to("gpu")
    losses = loss(Tensor(np.zeros((5, 3))).to("gpu"), labels, reduction="none")
    np.testing.assert_array_equal(np.isnan(losses.numpy()), [False, True, False, True, False])


def test_mixed_devices_are_an_error(library):
    with pytest.raises(TypeError, match="Add: expected inputs on one device, got cpu and gpu"):
        Tensor([1.0]) + Tensor([1.0]).to("gpu")
    with pytest.raises(TypeError, match="Linear: expected inputs on one device, got cpu and gpu"):
        nn.Linear(2, 2)(Tensor([[1.0, 2.0]]).to("gpu"))
