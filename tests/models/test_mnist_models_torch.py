"""The MNIST networks against their twins in PyTorch: names, counts, checkpoints both ways, gradients."""

import numpy as np
import pytest

from ministn import Tensor
from ministn import functional as F
from ministn.models import MnistCNN, MnistSTN

torch = pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file  # noqa: E402
from safetensors.torch import load_file as load_torch  # noqa: E402
from safetensors.torch import save_file as save_torch  # noqa: E402
from torch_stn import TorchCNN, TorchSTN  # noqa: E402

TWINS = [(MnistSTN, TorchSTN), (MnistCNN, TorchCNN)]


def noise(count):
    return np.random.default_rng(10).standard_normal((count, 1, 28, 28)).astype(np.float32)


def stir(parameters):
    """Move all parameters away from their start, so that the transformer really warps."""
    random = np.random.default_rng(11)
    for parameter in parameters:
        parameter += 0.03 * random.standard_normal(tuple(parameter.shape)).astype(np.float32)


def our_state(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("make", "make_twin"), TWINS)
def test_names_shapes_and_count_are_the_twins(make, make_twin):
    ours, theirs = make(), make_twin()
    expected = [(name, tuple(value.shape)) for name, value in theirs.state_dict().items()]
    assert [(name, value.shape) for name, value in ours.state_dict().items()] == expected
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def assert_same_logits(ours, theirs):
    x = noise(37)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x)).numpy()
    output = ours.eval()(Tensor(x)).detach().numpy()
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.01  # the images do make a difference
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)  # what a user of a checkpoint is promised


@pytest.mark.parametrize(("make", "make_twin"), TWINS)
def test_a_checkpoint_of_ours_loads_into_pytorch(make, make_twin, tmp_path):
    ours, theirs = make(), make_twin()
    stir(parameter.data for parameter in ours.parameters())
    save_file(our_state(ours), tmp_path / "model.safetensors")
    theirs.load_state_dict(load_torch(tmp_path / "model.safetensors"))
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize(("make", "make_twin"), TWINS)
def test_a_checkpoint_of_pytorch_loads_into_ours(make, make_twin, tmp_path):
    ours, theirs = make(), make_twin()
    stir(parameter.data.numpy() for parameter in theirs.parameters())
    save_torch(theirs.state_dict(), tmp_path / "model.safetensors")
    ours.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_same_logits(ours, theirs)


def test_transformations_warped_images_and_gradients_in_float64():
    ours, theirs = MnistSTN(dropout=0).double(), TorchSTN(dropout=0).double()
    stir(parameter.data for parameter in ours.parameters())
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in our_state(ours).items()})
    x, labels = noise(13).astype(np.float64), np.arange(13) % 10
    our_theta, their_theta = ours.theta(Tensor(x)), theirs.theta(torch.from_numpy(x))
    # float64 rounding through a few layers of some 300 terms; noise images have no ties in max-pooling.
    np.testing.assert_allclose(our_theta.detach().numpy(), their_theta.detach().numpy(), atol=1e-11)
    warped = theirs.stn(torch.from_numpy(x)).detach().numpy()
    assert np.abs(warped - x).max() > 0.1  # it does warp
    np.testing.assert_allclose(ours.stn(Tensor(x)).detach().numpy(), warped, atol=1e-11)
    F.nll_loss(ours(Tensor(x)), labels).backward()
    torch.nn.functional.nll_loss(theirs(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(our.grad.numpy(), their.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)
