"""Training on small dense networks, where a run takes milliseconds: what is tested is the loop and the checkpoints."""

from __future__ import annotations

import functools
import json
import os
import platform
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import threadpoolctl

import ministn
import ministn.functional as F
from ministn import data, nn, optim, random, records, training
from ministn.autodiff import Tensor

HEIGHT, WIDTH, CLASSES = 9, 7, 3


class Dense(nn.Module):
    """Two dense layers with dropout between them."""

    def __init__(self, hidden: int = 16) -> None:
        self.fc1 = nn.Linear(HEIGHT * WIDTH, hidden)
        self.fc2 = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc1(F.flatten(x, 1))), 0.3, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class OtherDense(Dense):
    """The same weights under another name."""


def make_images(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a brighter band of rows, whose place is the class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, number)
    images = generator.integers(0, 120, (number, HEIGHT, WIDTH))
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 100
    return images.astype(np.uint8), labels


def make_trainer(
    optimizer: str = "adamw",
    seed: int = 0,
    model: type[Dense] = Dense,
    batch_size: int = 32,
    average: bool = False,
    **options: int,
) -> training.Trainer:
    """With `average`, one of the weights is kept and labels are smoothed."""
    ministn.manual_seed(seed)
    network = model(**options)
    train_loader = data.DataLoader(*make_images(203, 1), batch_size, seed=7, std=0.5, augment=data.random_shift(1))
    test_loader = data.DataLoader(*make_images(50, 2), 32, shuffle=False, std=0.5)
    groups = [{"params": list(network.fc1.parameters())}, {"params": list(network.fc2.parameters()), "lr": 0.004}]
    if optimizer == "adamw":
        made = optim.AdamW(groups, lr=0.01, weight_decay=0.1)
        schedule = optim.LinearWarmup(made, 3, after=optim.CosineAnnealingLR(made, T_max=20))
    else:
        made, schedule = optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True), None
    trainer = training.Trainer(network, made, train_loader, test_loader, schedule)
    if average:
        trainer.average = optim.ExponentialMovingAverage(network, 0.9)
        trainer.loss = functools.partial(F.nll_loss, label_smoothing=0.1)
    return trainer


def weights(trainer: training.Trainer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


@pytest.fixture
def ctrl_c(monkeypatch):
    """Python's usual handling of Ctrl-C, which a shell that runs the tests in the background would turn off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # fit() has put it back
    signal.signal(signal.SIGINT, before)


# --- the loop -----------------------------------------------------------------------------------------------------


def test_fit_learns_and_keeps_a_row_per_epoch():
    trainer = make_trainer()
    history = trainer.fit(3)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert (trainer.epoch, trainer.step) == (3, 0)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert history[-1]["test_accuracy"] > 0.9  # chance is 0.33; the bands are far brighter than the noise
    assert all(row["seconds"] > 0 and row["images_per_second"] > 0 for row in history)


def test_a_step_is_forward_backward_update():
    """One SGD step, against w - lr dL/dw with the gradient by finite differences."""
    trainer = make_trainer("sgd")
    trainer.optimizer = optim.SGD(trainer.model.parameters(), lr=0.1)
    images, labels = next(trainer.train_loader.batches())
    trainer.model.double()
    images = Tensor(images.data.astype(np.float64))
    bias = trainer.model.fc2.bias.data.copy()
    state = random.get_state()

    def loss_at(value: float) -> float:
        random.set_state(state)  # the same dropout mask
        trainer.model.fc2.bias.data[1] = value
        return F.nll_loss(trainer.model(images), labels).item()

    slope = (loss_at(bias[1] + 1e-5) - loss_at(bias[1] - 1e-5)) / 2e-5
    trainer.model.fc2.bias.data[...] = bias
    random.set_state(state)
    trainer.train_step(images, labels)
    # a central difference of step 1e-5 in float64 is good to about 1e-10
    assert trainer.model.fc2.bias.data[1] == pytest.approx(bias[1] - 0.1 * slope, abs=1e-9)
    assert trainer.step == 1


def test_the_loss_is_the_trainers_and_the_evaluation_that_of_the_average():
    trainer = make_trainer(average=True)
    images, labels = next(trainer.train_loader.batches())
    state = random.get_state()
    log_probabilities = trainer.model(images)
    expected = 0.9 * F.nll_loss(log_probabilities, labels).item() - 0.1 * log_probabilities.data.mean()
    random.set_state(state)
    trainer.train_step(images, labels)
    assert trainer.metrics.loss == pytest.approx(expected, rel=1e-6)  # a sum of 96 numbers in float32

    trainer = make_trainer(average=True)
    (row,) = trainer.fit(1)
    without = training.evaluate(trainer.model, trainer.test_loader).loss
    trainer.model.load_state_dict(trainer.average.state_dict()["weights"])
    assert training.evaluate(trainer.model, trainer.test_loader).loss == row["test_loss"] != without


@pytest.mark.parametrize("changes", [{"average_updates": -1}, {"average_updates": None}], ids=["negative", "missing"])
def test_a_damaged_average_changes_nothing(tmp_path, changes):
    records.save_checkpoint(tmp_path / "checkpoint.safetensors", make_trainer(average=True))
    rewrite(tmp_path / "checkpoint.safetensors", **changes)
    trainer = make_trainer(seed=5, average=True)
    trainer.train_step(*next(trainer.train_loader.batches()))
    before = state_of(trainer)
    with pytest.raises(records.CheckpointError, match="updates"):
        records.read_checkpoint(tmp_path / "checkpoint.safetensors").restore(trainer)
    assert state_of(trainer) == before
    with pytest.raises(records.CheckpointError, match="made with an average of the weights"):
        records.read_checkpoint(tmp_path / "checkpoint.safetensors").restore(make_trainer())


def test_training_metrics_are_means_over_images_not_over_batches():
    trainer = make_trainer()
    seen = []
    trainer.optimizer.step = lambda: None  # weights stand still
    original = trainer.metrics.add

    def add(log_probabilities, labels, loss):
        seen.append((log_probabilities.data.copy(), labels))
        original(log_probabilities, labels, loss)

    trainer.metrics.add = add
    row = trainer.fit(1)[0]
    assert [len(labels) for _, labels in seen] == [32, 32, 32, 32, 32, 32, 11]
    log_probabilities = np.concatenate([values for values, _ in seen])
    labels = np.concatenate([values for _, values in seen])
    expected = -log_probabilities[np.arange(203), labels].mean()
    assert row["train_loss"] == pytest.approx(expected, rel=1e-6)  # float32 batch means, summed in float64
    assert row["train_accuracy"] == (log_probabilities.argmax(axis=1) == labels).mean()


def test_labels_that_are_no_classes_are_never_correct():
    metrics = training.Metrics()
    metrics.add(Tensor(np.eye(4)), np.zeros((4, 1, 4)), Tensor(0.5))
    assert metrics.as_dict() == {"images": 4, "loss_sum": 2.0, "correct": 0}


def test_evaluate_uses_every_image_without_dropout():
    trainer = make_trainer()
    state = random.get_state()
    metrics = training.evaluate(trainer.model, trainer.test_loader)
    assert random.get_state() == state  # no mask was drawn
    images, labels = make_images(50, 2)
    x = (images / 255 / 0.5).reshape(50, -1)
    hidden = np.maximum(x @ trainer.model.fc1.weight.data.T + trainer.model.fc1.bias.data, 0)
    scores = hidden @ trainer.model.fc2.weight.data.T + trainer.model.fc2.bias.data
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(50), labels]
    assert metrics.loss == pytest.approx(losses.mean(), rel=1e-5)  # float32 against float64
    assert metrics.accuracy == (scores.argmax(axis=1) == labels).mean()


def test_blas_has_one_thread_while_training():
    seen = []

    def look(trainer):
        seen.extend(lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas")

    make_trainer().fit(1, on_step=look)
    assert seen
    assert set(seen) == {1}


def test_a_loss_that_is_not_finite_stops_before_the_update():
    trainer = make_trainer("sgd")
    trainer.model.fc2.bias.data[0] = np.nan
    before = weights(trainer)
    with pytest.raises(training.NonFiniteLossError, match=r"loss is nan in epoch 1, step 1, with learning rate 0.01"):
        trainer.fit(1)
    for name, array in weights(trainer).items():
        np.testing.assert_array_equal(array, before[name])


def test_diverging_weights_end_in_one_error_and_no_warning():
    trainer = make_trainer("sgd")
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e30  # float32 ends at 3e38: the next step's products overflow
    with pytest.raises(training.NonFiniteLossError, match="in epoch 1, step 2, with learning rate 1e"):
        trainer.fit(1)


def test_weights_that_diverge_in_the_last_step_are_found_by_the_evaluation():
    trainer = make_trainer("sgd")
    trainer.train_loader.batch_size = 203  # one step
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e30
    with pytest.raises(training.NonFiniteLossError, match="in epoch 1, the evaluation, with"):
        trainer.fit(1)
    assert trainer.history == []


def test_a_checkpoint_is_not_overwritten_by_weights_that_a_step_has_spoilt(tmp_path):
    """The loss of a step may be finite and its gradient not: Ctrl-C right after it must not cost the last good file."""
    path, trainer = tmp_path / "checkpoint.safetensors", make_trainer("sgd")
    records.save_checkpoint(path, trainer)
    good = path.read_bytes()

    def spoil(trainer):
        trainer.model.fc1.weight.data[0, 0] = np.inf
        raise training.Interrupted

    with pytest.raises(training.Interrupted):
        trainer.fit(1, on_step=spoil)
    with pytest.raises(training.NonFiniteLossError, match=r"not written, since model.fc1.weight is not finite"):
        records.save_checkpoint(path, trainer)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda trainer: next(iter(trainer.optimizer.state.values()))["exp_avg_sq"].fill(np.inf), "0.exp_avg_sq"),
        (lambda trainer: trainer.average._average["fc1.bias"].fill(np.nan), "average.fc1.bias"),
    ],
    ids=["optimiser", "average"],
)
def test_nor_by_another_array_that_is_not_finite(tmp_path, spoil, name):
    """One gradient of 1e25, whose square float32 does not hold, and Adam never moves the weight again."""
    trainer = make_trainer(average=True)
    trainer.fit(1)
    spoil(trainer)
    with pytest.raises(training.NonFiniteLossError, match=rf"not written, since [a-z]*\.?{name} is not finite"):
        records.save_checkpoint(tmp_path / "checkpoint", trainer)
    assert not os.listdir(tmp_path)


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "average"), [("adamw", False), ("sgd", False), ("adamw", True)])
@pytest.mark.parametrize("stop_at", [1, 4, 7, 10], ids=lambda step: f"step{step}")  # 7 steps are an epoch
def test_resume_is_exact(tmp_path, ctrl_c, optimizer, average, stop_at):
    whole = make_trainer(optimizer, average=average)
    whole.fit(3)

    stopped = make_trainer(optimizer, average=average)
    steps = 0

    def press_ctrl_c(trainer):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            ctrl_c()

    with pytest.raises(training.Interrupted):
        stopped.fit(3, on_step=press_ctrl_c)
    assert steps == stop_at
    records.save_checkpoint(tmp_path / "checkpoint", stopped)

    resumed = make_trainer(
        optimizer, seed=99, average=average
    )  # other weights and another random state, all to be replaced
    records.read_checkpoint(tmp_path / "checkpoint").restore(resumed)
    assert 7 * resumed.epoch + resumed.step == stop_at
    resumed.fit(3)
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(weights(resumed)[name], array)  # to the last bit
    assert without_times(resumed.history) == without_times(whole.history)
    if average:
        assert resumed.average.updates == whole.average.updates == 21
        averages = whole.average.state_dict()["weights"]
        for name, array in resumed.average.state_dict()["weights"].items():
            np.testing.assert_array_equal(array, averages[name])


def test_a_resumed_run_is_tested_on_the_batches_of_the_epoch(tmp_path):
    def make():
        trainer = make_trainer()
        options = {"drop_last": True, "augment": data.random_shift(3)}  # shuffled: other images are left out each time
        trainer.test_loader = data.DataLoader(*make_images(50, 2), 32, std=0.5, **options)
        return trainer

    whole = make()
    whole.fit(3)
    stopped = make()
    stopped.fit(2)
    records.save_checkpoint(tmp_path / "checkpoint", stopped)
    resumed = make()
    records.read_checkpoint(tmp_path / "checkpoint").restore(resumed)
    resumed.fit(3)
    assert without_times(resumed.history) == without_times(whole.history)


def test_ctrl_c_waits_for_the_end_of_the_step(ctrl_c):
    trainer = make_trainer()
    trainer.schedule.step = lambda: ctrl_c()  # in the middle of a step
    with pytest.raises(training.Interrupted):
        trainer.fit(1)
    assert (trainer.step, trainer.metrics.images) == (1, 32)


def test_ctrl_c_in_the_last_evaluation_is_not_lost(ctrl_c):
    trainer = make_trainer()
    with pytest.raises(training.Interrupted):
        trainer.fit(1, on_epoch=lambda trainer: ctrl_c())
    assert (trainer.epoch, trainer.step) == (1, 0)


def test_a_second_ctrl_c_stops_at_once(ctrl_c):
    trainer = make_trainer()

    def press_twice():
        ctrl_c()
        ctrl_c()

    trainer.schedule.step = press_twice
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(1)
    assert not isinstance(caught.value, training.Interrupted)
    assert trainer.step == 0


def test_another_handler_of_ctrl_c_is_left_alone(ctrl_c):
    calls = []
    signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        make_trainer().fit(1, on_step=lambda trainer: ctrl_c())
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(calls) == 7


def test_the_checkpoint_returns_what_was_put_in_and_is_plain_safetensors(tmp_path):
    trainer = make_trainer()
    trainer.fit(1)
    records.save_checkpoint(tmp_path / "c", trainer, settings={"lr": 0.1}, theta=[{"step": 3}])
    assert os.listdir(tmp_path) == ["c"]
    checkpoint = records.read_checkpoint(tmp_path / "c")
    assert checkpoint.extra == {"settings": {"lr": 0.1}, "theta": [{"step": 3}]}
    arrays = safetensors.numpy.load_file(tmp_path / "c")
    np.testing.assert_array_equal(arrays["model.fc1.weight"], trainer.model.fc1.weight.data)
    assert arrays["optimizer.0.exp_avg"].shape == trainer.model.fc1.weight.shape


def test_weights_move_through_a_file_of_their_own(tmp_path):
    first, second = make_trainer(seed=1), make_trainer(seed=2)
    first.model.fc1.weight.data = np.asfortranarray(first.model.fc1.weight.data)  # memory order must not matter
    records.save_weights(tmp_path / "w", first.model)
    assert safetensors.numpy.load_file(tmp_path / "w").keys() == first.model.state_dict().keys()
    records.load_weights(tmp_path / "w", second.model)
    for name, array in weights(first).items():
        np.testing.assert_array_equal(weights(second)[name], array)


# --- files that are wrong -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    trainer = make_trainer()
    trainer.fit(1)
    records.save_checkpoint(path, trainer)
    return path


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(part * len(content))])
    with pytest.raises(records.CheckpointError, match="truncated or no safetensors file"):
        records.read_checkpoint(saved)
    with pytest.raises(records.CheckpointError, match="truncated or no safetensors file"):
        records.load_weights(saved, Dense())


@pytest.mark.parametrize("content", [b"no safetensors file at all", bytes(1000)], ids=["text", "zeros"])
def test_a_file_of_another_kind(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(records.CheckpointError, match="truncated or no safetensors file"):
        records.read_checkpoint(tmp_path / "c")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(records.CheckpointError, match="there is no such file"):
        records.read_checkpoint(tmp_path / "nothing")
    with pytest.raises(records.CheckpointError, match="there is no such file"):
        records.load_weights(tmp_path / "nothing", Dense())
    with pytest.raises(records.CheckpointError, match="truncated or no safetensors file"):
        records.read_checkpoint(tmp_path)


def test_weights_alone_are_no_checkpoint(tmp_path):
    records.save_weights(tmp_path / "w", Dense())
    with pytest.raises(records.CheckpointError, match="not a ministn checkpoint"):
        records.read_checkpoint(tmp_path / "w")


def rewrite(path: Path, version: int = records.CHECKPOINT_VERSION, **changes: object) -> None:
    """Save the checkpoint again with parts of its JSON changed, or left out where the change is None."""
    checkpoint = records.read_checkpoint(path)
    info = {key: value for key, value in (checkpoint.info | changes).items() if value is not None}
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": str(version), "info": json.dumps(info)}
    path.write_bytes(records._safetensors(checkpoint.arrays, metadata))


def test_a_checkpoint_of_another_version(saved):
    rewrite(saved, version=99)
    with pytest.raises(records.CheckpointError, match="expected checkpoint version 1, got 99"):
        records.read_checkpoint(saved)


@pytest.mark.parametrize("info", [None, "not JSON", "[]", "{}", '{"extra": 3}'])
def test_metadata_that_are_not_what_they_should_be(saved, info):
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": str(records.CHECKPOINT_VERSION)}
    saved.write_bytes(records._safetensors({}, metadata if info is None else metadata | {"info": info}))
    with pytest.raises(records.CheckpointError, match=r"checkpoint\.safetensors: "):
        records.read_checkpoint(saved)


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1)])
@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_a_dtype_that_numpy_lacks(tmp_path, dtype, size, kind):
    header = {"model.fc1.bias": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    if kind == "checkpoint":
        version = str(records.CHECKPOINT_VERSION)
        header["__metadata__"] = {"format": records.CHECKPOINT_FORMAT, "version": version, "info": '{"extra": {}}'}
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(records.CheckpointError, match="file: "):
        records.load_weights(tmp_path / "file", Dense())
    # without that metadata it is refused before the tensor is read
    with pytest.raises(records.CheckpointError, match="float" if kind == "checkpoint" else "not a ministn checkpoint"):
        records.read_checkpoint(tmp_path / "file")


def state_of(trainer: training.Trainer) -> tuple[object, ...]:
    """Everything that a restore changes, in a form that == compares."""
    optimizer = trainer.optimizer.state_dict()
    average = trainer.average and trainer.average.state_dict()
    slots = [
        (index, name, np.asarray(value).tolist())
        for index, values in optimizer["state"].items()
        for name, value in values.items()
    ]
    return (
        {name: array.tolist() for name, array in weights(trainer).items()},
        (slots, optimizer["param_groups"]),
        trainer.schedule and trainer.schedule.state_dict(),
        random.get_state(),
        (trainer.epoch, trainer.step, trainer.seconds, vars(trainer.metrics), trainer.history),
        average and (average["updates"], {name: array.tolist() for name, array in average["weights"].items()}),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": OtherDense}, "made with model Dense, not with OtherDense"),
        ({"hidden": 5}, r"network \(fc1\): Linear\(.*out_features=16, .*not with \(fc1\): Linear\(.*out_features=5, "),
        ({"optimizer": "sgd"}, "made with optimizer AdamW, not with SGD"),
        ({"batch_size": 64}, "made with batch_size 32, not with 64"),
        ({"average": True}, "made without an average of the weights"),
    ],
    ids=["model", "shape", "optimizer", "batch size", "average"],
)
def test_a_checkpoint_of_something_else(saved, options, message):
    trainer = make_trainer(**options)
    before = state_of(trainer)
    with pytest.raises(records.CheckpointError, match=message):
        records.read_checkpoint(saved).restore(trainer)
    assert state_of(trainer) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed 7, not with 8"),
        ({"std": 0.25}, "pixel standard deviation"),
        ({"mean": 0.1}, "pixel mean"),
        ({"shuffle": False}, "shuffle True, not with False"),
        ({"drop_last": True}, "drop_last False, not with True"),
        ({"augment": None}, r"augmentation RandomShift\(max_pixels=1\), not with None"),
        ({"augment": data.random_shift(2)}, r"RandomShift\(max_pixels=1\), not with RandomShift\(max_pixels=2\)"),
        ({"labels": np.zeros(203, np.int64)}, r"labels \(hash\)"),
        (
            {"images": np.zeros((203, HEIGHT, WIDTH), np.uint8)},
            r"training set \(hash\) [0-9a-f]{12}, not with [0-9a-f]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_made_with_other_data(saved, change, message):
    trainer = make_trainer()
    images, labels = make_images(203, 1)
    options = {"images": images, "labels": labels, "seed": 7, "std": 0.5, "augment": data.random_shift(1)} | change
    trainer.train_loader = data.DataLoader(batch_size=32, **options)
    with pytest.raises(records.CheckpointError, match=message):
        records.read_checkpoint(saved).restore(trainer)


@pytest.mark.parametrize("change", [0, 1], ids=["images", "labels"])
def test_a_checkpoint_made_with_another_test_set(saved, change):
    trainer, test_set = make_trainer(), make_images(50, 2)
    test_set[change][0] += 1
    trainer.test_loader = data.DataLoader(*test_set, 32, shuffle=False, std=0.5)
    with pytest.raises(records.CheckpointError, match=r"made with test set \(hash\) [0-9a-f]{12}, not with [0-9a-f]"):
        records.read_checkpoint(saved).restore(trainer)


def test_a_checkpoint_with_another_schedule(saved):
    trainer = make_trainer()
    trainer.schedule = None
    message = "made with schedule LinearWarmup and CosineAnnealingLR, not with "
    with pytest.raises(records.CheckpointError, match=message + "none"):
        records.read_checkpoint(saved).restore(trainer)
    trainer.schedule = optim.StepLR(trainer.optimizer, 5)
    with pytest.raises(records.CheckpointError, match=message + "StepLR"):
        records.read_checkpoint(saved).restore(trainer)


@pytest.mark.parametrize(
    "change",
    [
        {"history": None},
        {"history": []},
        {"made_with": None},
        {"made_with": {}},
        {"optimizer_groups": []},
        {"optimizer_numbers": {"0": {"nonsense": 1}}},
        {"schedule_state": None},
        {"schedule_state": {"last_step": 1, "base_lrs": [1.0], "after": None}},
        {"random": {}},
        {"step": 1000},
        {"metrics": {"speed": 3}},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_damaged_checkpoint_changes_nothing(saved, change):
    rewrite(saved, **change)
    trainer = make_trainer(seed=5)
    trainer.train_step(*next(trainer.train_loader.batches()))
    before = state_of(trainer)
    with pytest.raises(records.CheckpointError, match=r"checkpoint\.safetensors: "):
        records.read_checkpoint(saved).restore(trainer)
    assert state_of(trainer) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"images": "many"}}, "expected images to be a number, got 'many'"),
        ({"epoch": 2**40}, "epoch 1099511627776 and step 0 do not fit the history"),
        ({"epoch": 1, "history": [{"epoch": 2}]}, "epoch 1 and step 0 do not fit the history"),
        ({"epoch": 1, "history": [{"epoch": 1}]}, "expected epoch, train_loss, .* of each epoch, got epoch"),
    ],
    ids=["metrics", "memory for epochs", "wrong epoch", "row"],
)
def test_numbers_that_a_continuation_would_fail_on(saved, change, message):
    rewrite(saved, **change)
    with pytest.raises(records.CheckpointError, match=message):
        records.read_checkpoint(saved).restore(make_trainer())


def test_metadata_nested_too_deep(saved):
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": str(records.CHECKPOINT_VERSION), "info": "[" * 100_000}
    saved.write_bytes(records._safetensors({}, metadata))
    with pytest.raises(records.CheckpointError, match="recursion"):
        records.read_checkpoint(saved)


@pytest.mark.parametrize("where", ["weight", "metadata"])
def test_a_bit_that_a_disk_has_turned(saved, where):
    content = bytearray(saved.read_bytes())
    if where == "weight":
        content[-1] ^= 1
    else:
        content[content.index(b'\\"seconds\\": ') + 13] ^= 1  # one digit for another
    saved.write_bytes(content)
    with pytest.raises(records.CheckpointError, match="damaged: expected content of SHA-256"):
        records.read_checkpoint(saved)


def test_a_bit_turned_in_the_name_of_the_checksum(saved, tmp_path):
    """Else whatever else is damaged would go unseen."""
    records.save_weights(tmp_path / "weights", Dense())
    for path, read in (
        (saved, records.read_checkpoint),
        (tmp_path / "weights", lambda path: records.load_weights(path, Dense())),
    ):
        path.write_bytes(path.read_bytes().replace(b'"sha256"', b'"sha257"'))
        with pytest.raises(records.CheckpointError, match="damaged: the SHA-256 of its content is missing"):
            read(path)


def test_weights_in_which_a_bit_is_turned_or_that_have_no_checksum(tmp_path):
    model, path = Dense(), tmp_path / "w"
    records.save_weights(path, model)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    with pytest.raises(records.CheckpointError, match="damaged: expected content of SHA-256"):
        records.load_weights(path, model)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
    path.write_bytes(safetensors.numpy.save({name: array + 1 for name, array in before.items()}))  # as others write it
    records.load_weights(path, model)
    np.testing.assert_array_equal(model.fc1.bias.data, before["fc1.bias"] + 1)


def test_a_checkpoint_from_before_it_held_the_augmentation(saved):
    made_with = records.read_checkpoint(saved).info["made_with"]
    for name in ("training set (hash)", "test set (hash)", "augmentation", "network", "loss", "decay of the average"):
        del made_with[name]
    rewrite(saved, made_with={**made_with, "augment": True})
    trainer = make_trainer()
    records.read_checkpoint(saved).restore(trainer)
    assert trainer.epoch == 1


def test_a_checkpoint_made_with_another_loss_or_average(tmp_path):
    path, trainer = tmp_path / "c", make_trainer(average=True)
    records.save_checkpoint(path, trainer)
    trainer.loss = functools.partial(F.nll_loss, label_smoothing=0.2)
    with pytest.raises(records.CheckpointError, match=r"loss nll_loss with .*0\.1}, not with nll_loss with .*0\.2}"):
        records.read_checkpoint(path).restore(trainer)
    trainer = make_trainer(average=True)
    trainer.average.decay = 0.5
    with pytest.raises(records.CheckpointError, match=r"decay of the average 0\.9, not with 0\.5"):
        records.read_checkpoint(path).restore(trainer)


def test_a_folder_that_is_locked(tmp_path):
    folder = tmp_path / "run"
    with records.locked(folder):
        assert os.listdir(folder) == ["lock"]
        with pytest.raises(records.BusyError, match=f"another program is at {folder}"), records.locked(folder):
            pass
        (folder / ".checkpoint.safetensors.123.0f9a55ee.part").write_bytes(b"half of it")
        (folder / ".checkpoint.safetensors.123.part").write_bytes(b"as it was called at first")
        (folder / ".of somebody else.part").write_bytes(b"")
    with records.locked(folder):  # it is free again, and what a killed process left is gone
        assert sorted(os.listdir(folder)) == [".of somebody else.part", "lock"]


def test_threads_that_write_one_file(tmp_path):
    contents = [bytes([number]) * 300_000 for number in range(4)]

    def write(content):
        for _ in range(20):
            records.write_atomically(tmp_path / "file", content)
            assert (tmp_path / "file").read_bytes() in contents  # whole, whoever wrote it last

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, contents))
    assert os.listdir(tmp_path) == ["file"]


def test_weights_of_another_model(tmp_path):
    records.save_weights(tmp_path / "w", Dense(hidden=5))
    with pytest.raises(records.CheckpointError, match=r"expected shape \(16, 63\), got \(5, 63\)"):
        records.load_weights(tmp_path / "w", Dense())


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    records.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        records.write_atomically(path, b"new, and longer")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_write_csv(tmp_path):
    records.write_csv(tmp_path / "t.csv", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": np.float64(0.25)}])
    assert (tmp_path / "t.csv").read_text() == "epoch,loss\n1,0.5\n2,0.25\n"


def test_environment_names_versions_and_processor():
    environment = records.environment()
    assert list(environment) == ["python", "ministn", "numpy", "numba", "processor"]
    assert (environment["python"], environment["ministn"]) == (platform.python_version(), ministn.__version__)
    assert environment["numpy"] == np.__version__
    assert environment["processor"]


def test_the_processor_where_linux_does_not_name_it(monkeypatch):
    def fail(path):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert records.environment()["processor"] == platform.machine()
