"""The MNIST networks on their own. They are compared with PyTorch's in test_mnist_models_torch.py."""

import numpy as np
import pytest

import ministn
from ministn import Tensor
from ministn import functional as F
from ministn.models import MnistCNN, MnistSTN
from ministn.optim import Adam


def noise(count, dtype=np.float32):
    return Tensor(np.random.default_rng(8).standard_normal((count, 1, 28, 28)).astype(dtype))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_numbers_of_parameters():
    # conv1 260, conv2 5020, fc1 16050, fc2 510; localization 400 + 2010, fc_loc 2912 + 198.
    assert count(MnistCNN()) == 21840
    assert count(MnistSTN()) == 21840 + 5520
    assert count(MnistSTN(coord_conv=True)) == 27360 + 2 * (8 * 49 + 10 * 25)  # two more input channels each


@pytest.mark.parametrize("make", [MnistCNN, MnistSTN, lambda: MnistSTN(coord_conv=True)])
def test_log_probabilities(make):
    output = make().eval()(noise(5))
    assert output.shape == (5, 10)
    assert output.dtype == np.float32
    np.testing.assert_allclose(np.exp(output.detach().numpy()).sum(axis=1), np.ones(5), rtol=1e-5)  # ten float32 terms


@pytest.mark.parametrize("coord_conv", [False, True])
def test_the_transformer_starts_with_the_identity(coord_conv):
    model, x = MnistSTN(coord_conv), noise(3)
    np.testing.assert_array_equal(model.theta(x).detach().numpy(), np.tile(np.eye(2, 3), (3, 1, 1)))
    # A pixel's coordinate may be off by a rounding: 28 * 1e-7, times differences of neighbours of up to 6.
    np.testing.assert_allclose(model.stn(x).detach().numpy(), x.numpy(), atol=2e-5)


def test_the_same_seed_gives_both_networks_the_same_classifier():
    ministn.manual_seed(5)
    cnn = MnistCNN()
    ministn.manual_seed(5)
    stn = MnistSTN()
    for ours, theirs in zip(cnn.parameters(), stn.classifier_parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_the_parameters_split_in_two():
    model = MnistSTN()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    localisation = [names[id(parameter)] for parameter in model.localisation_parameters()]
    classifier = [names[id(parameter)] for parameter in model.classifier_parameters()]
    assert localisation + classifier == list(dict.fromkeys(localisation + classifier))
    assert set(localisation + classifier) == set(names.values())
    assert {name.split(".")[0] for name in localisation} == {"localization", "fc_loc"}
    assert {name.split(".")[0] for name in classifier} == {"conv1", "conv2", "fc1", "fc2"}


@pytest.mark.parametrize("make", [MnistCNN, MnistSTN, lambda **o: MnistSTN(coord_conv=True, **o)])
def test_a_few_steps_learn_a_batch_by_heart_and_the_seed_decides(make):
    def losses():
        ministn.manual_seed(9)
        model, x, labels = make(dropout=0.1), noise(16), np.arange(16) % 10
        optimizer = Adam(model.parameters(), lr=3e-3)
        result = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = F.nll_loss(model(x), labels)
            loss.backward()
            optimizer.step()
            result.append(loss.item())
        return result

    first = losses()
    assert first[0] == pytest.approx(np.log(10), abs=0.3)  # ten classes, weights that know nothing
    assert first[-1] < 0.5 * first[0]
    assert losses() == first


def test_every_parameter_gets_a_gradient():
    ministn.manual_seed(1)
    model = MnistSTN(coord_conv=True, dropout=0)
    model.fc_loc[2].weight.data[...] = 0.01  # at zero, nothing would pass below it
    F.nll_loss(model(noise(8)), np.arange(8)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert np.abs(parameter.grad.numpy()).max() > 0, name


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match=r"MnistSTN: expected images of shape \(N, 1, 28, 28\), got \(2, 3, 28, 28\)"):
        MnistSTN()(Tensor(np.zeros((2, 3, 28, 28), np.float32)))
    with pytest.raises(ValueError, match=r"MnistCNN: expected images of shape \(N, 1, 28, 28\), got \(28, 28\)"):
        MnistCNN()(Tensor(np.zeros((28, 28), np.float32)))


def test_a_checkpoint_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"does not fit MnistCNN: unexpected: localization\.0\.weight; unexpected"):
        MnistCNN().load_state_dict(MnistSTN().state_dict())
    with pytest.raises(ValueError, match=r"localization.0.weight: expected shape \(8, 3, 7, 7\), got \(8, 1, 7, 7\)"):
        MnistSTN(coord_conv=True).load_state_dict(MnistSTN().state_dict())
