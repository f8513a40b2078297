"""Module: what it finds in itself, its modes, and its state."""

import copy

import numpy as np
import pytest

from ministn import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        self.scale = nn.Parameter(np.array([1.0, 2.0], np.float32))
        self.note = "not a parameter"
        self.plain = Tensor([5.0])
        self.norm = nn.BatchNorm2d(2)
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x * self.scale)


PARAMETERS = ["scale", "norm.weight", "norm.bias", "layers.0.weight", "layers.0.bias"]
BUFFERS = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


def test_finds_parameters_buffers_and_modules_by_name():
    block = Block()
    assert [name for name, _ in block.named_parameters()] == PARAMETERS
    assert [name for name, _ in block.named_buffers()] == BUFFERS
    assert [id(buffer) for buffer in block.buffers()] == [id(buffer) for _, buffer in block.named_buffers()]
    assert [name for name, _ in block.named_modules()] == ["", "norm", "layers", "layers.0", "layers.1"]
    assert [name for name, _ in block.named_children()] == ["norm", "layers"]
    assert list(block.state_dict()) == ["scale", "norm.weight", "norm.bias", *BUFFERS, *PARAMETERS[3:]]
    assert all(parameter.requires_grad for parameter in block.parameters())


def test_arguments_reach_forward_by_position_and_by_name():
    class Power(nn.Module):
        def forward(self, x: Tensor, exponent: int = 1, *, factor: float = 1.0) -> Tensor:
            return factor * x**exponent

    assert Power()(Tensor([3.0]), exponent=2, factor=0.5).item() == 4.5
    assert Power()(Tensor([3.0]), 3).item() == 27
    with pytest.raises(TypeError, match="unexpected keyword argument 'power'"):
        Power()(Tensor([3.0]), power=2)


def test_a_shared_parameter_is_listed_once_but_saved_under_both_names():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    both = nn.Sequential(first, second, first)
    assert [name for name, _ in both.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(list(both.modules())) == 3
    assert list(both.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]


def test_a_parameter_or_buffer_cannot_be_lost_by_assignment():
    block = Block()
    with pytest.raises(TypeError, match="expected a Parameter or None for 'scale', got Tensor"):
        block.scale = block.scale * 2
    with pytest.raises(TypeError, match="expected a Tensor for buffer 'running_mean', got ndarray"):
        block.norm.running_mean = np.zeros(2)
    with pytest.raises(ValueError, match="already has an attribute 'note'"):
        block.register_buffer("note", Tensor([1.0]))
    with pytest.raises(TypeError, match="expected a Tensor for 'mask', got ndarray"):
        block.register_buffer("mask", np.zeros(2))
    assert [name for name, _ in block.named_parameters()] == PARAMETERS


def test_train_and_eval_reach_all_modules():
    block = Block()
    assert block.eval() is block
    assert [module.training for module in block.modules()] == [False] * 5
    block.train()
    assert [module.training for module in block.modules()] == [True] * 5
    assert nn.Dropout(0.5).training  # one module's mode says nothing about another's


def test_zero_grad_forgets_gradients():
    layer = nn.Linear(2, 1)
    layer(Tensor([[1.0, 2.0]])).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[1, 2]])
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_dtype_conversion_keeps_counters_and_moves_gradients():
    block = Block()
    block.scale.grad = Tensor(np.ones(2, np.float32))
    block.double()
    kinds = {name: tensor.dtype.name for name, tensor in block.state_dict().items()}
    assert kinds.pop("norm.num_batches_tracked") == "int64"
    assert set(kinds.values()) == {"float64"}
    assert block.scale.grad.dtype == np.float64
    assert block.float().scale.dtype == np.float32
    with pytest.raises(TypeError, match="expected float32 or float64, got int32"):
        block.astype("int32")


def test_state_is_copied_in_and_shared_out():
    source, target = Block(), Block()
    memory = target.scale.data
    source.norm.num_batches_tracked.data += 7
    arrays = {name: tensor.numpy().copy() for name, tensor in source.state_dict().items()}
    for state in (source.state_dict(), arrays):
        assert target.load_state_dict(state) == ([], [])
        for name, tensor in target.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), arrays[name])
    assert target.scale.data is memory  # an optimiser's parameters stay the module's
    source.scale.data[0] = 9
    assert target.scale.data[0] == 1
    assert source.state_dict()["scale"].numpy()[0] == 9
    assert not source.state_dict()["scale"].requires_grad


def test_a_state_that_does_not_fit_changes_nothing_and_every_fault_is_listed():
    block = Block()
    before = {name: tensor.numpy().copy() for name, tensor in block.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()}
    del state["norm.weight"]
    state["other.weight"] = np.zeros(1, np.float32)
    state["layers.0.bias"] = np.zeros(4, np.float32)
    state["norm.bias"] = np.zeros(2, np.float64)
    state["norm.running_var"] = [1.0, 1.0]
    with pytest.raises(ValueError, match="does not fit Block") as caught:
        block.load_state_dict(state)
    for part in (
        "missing: norm.weight",
        "unexpected: other.weight",
        "layers.0.bias: expected shape (3,), got (4,)",
        "norm.bias: expected dtype float32, got float64",
        "norm.running_var: expected a Tensor or a NumPy array, got list",
    ):
        assert part in str(caught.value)
    for name, tensor in block.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_strict_false_passes_over_names_but_not_over_shapes():
    layer = nn.Linear(2, 2)
    weight = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert layer.load_state_dict({"weight": weight, "gain": weight}, strict=False) == (["bias"], ["gain"])
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight)
    with pytest.raises(ValueError, match=r"weight: expected shape \(2, 2\), got \(3, 2\)"):
        layer.load_state_dict({"weight": np.zeros((3, 2), np.float32)}, strict=False)


def test_repr_shows_the_tree():
    network = nn.Sequential(nn.Conv2d(1, 8, 7), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))
    assert repr(network) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 8, kernel_size=(7, 7), stride=(1, 1))\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): Dropout(p=0.5)\n"
        "  )\n"
        ")"
    )


def test_a_deep_copy_is_independent():
    block = Block()
    other = copy.deepcopy(block)
    other.scale.data[0] = 9
    assert isinstance(other.scale, nn.Parameter)
    assert block.scale.data[0] == 1


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        nn.Module()(1)
