"""Training on the GPU: the same curves as on the CPU, no waiting in a step, checkpoints that go on on either device.

On the stand-in for CuPy, with the kernels on the emulator; and on a GPU where there is one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import ministn
import ministn.functional as F
from ministn import data, models, nn, optim, random, records, training
from ministn.autodiff import Tensor
from ministn.kernels import _cuda
from ministn.kernels.conv2d import cuda as conv2d_cuda

SCRIPT = Path(__file__).parents[2] / "examples" / "train_mnist.py"


@pytest.fixture(scope="module")
def digits():
    return data.strokes.load(train_size=80, test_size=20, seed=0)


def make_trainer(device, digits, dtype=np.float32, batch_size=8, model=models.MnistSTN, optimizer="adamw", **options):
    """As examples/train_mnist.py makes it, but smaller."""
    ministn.manual_seed(0)
    network = model(dropout=0.1).astype(dtype).to(device)
    data_options = {"mean": digits.mean, "std": digits.std, "device": device}
    train_loader = data.DataLoader(
        digits.train_images, digits.train_labels, batch_size, seed=1, augment=data.random_shift(1), **data_options
    )
    test_loader = data.DataLoader(digits.test_images, digits.test_labels, 20, shuffle=False, **data_options)
    if dtype == np.float64:
        train_loader, test_loader = InFloat64(train_loader), InFloat64(test_loader)
    if optimizer == "adamw":
        made = optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = optim.LinearWarmup(made, 3, after=optim.CosineAnnealingLR(made, T_max=40))
    else:
        made, schedule = optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True), None
    return training.Trainer(network, made, train_loader, test_loader, schedule, **options)


class InFloat64:
    """A loader whose images have been converted."""

    def __init__(self, loader):
        self.loader = loader

    def batches(self, start=0):
        return ((Tensor(images.data.astype(np.float64)), labels) for images, labels in self.loader.batches(start))

    def __len__(self):
        return len(self.loader)


def weights(trainer):
    return {name: np.array(tensor.numpy()) for name, tensor in trainer.model.state_dict().items()}


def curve(trainer, epochs):
    """The loss of every step, and the rows of the table without times."""
    ministn.manual_seed(1)  # of the dropout
    losses = []
    trainer.fit(epochs, on_step=lambda t: losses.append(t.read_metrics().loss_sum))  # of the epoch so far
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in trainer.history]
    return np.array(losses), rows


@pytest.fixture(autouse=True)
def in_tiles(monkeypatch):
    """Convolutions of small batches by the kernels that serve large ones, which the emulator also runs faster."""
    monkeypatch.setattr(conv2d_cuda, "_MANY", 0)


@pytest.fixture
def train_mnist(monkeypatch, tmp_path, digits):
    """The example, on few drawn digits and in an empty folder."""
    spec = importlib.util.spec_from_file_location("train_mnist", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_mnist", module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: digits)
    monkeypatch.chdir(tmp_path)
    return module


# --- the same training --------------------------------------------------------------------------------------------


def test_the_stn_learns_as_on_the_cpu(library, digits):
    """A hundred steps in float64, where rounding has no room to grow into something that hides a mistake.

    Sums are added in another order than on the CPU, which differs by some 1e-16 of each. In a hundred steps it grew to
    1e-15 of the loss; a wrong tap, mask or rate shows in the third digit.
    """
    here, there = (make_trainer(device, digits, np.float64) for device in ("cpu", "gpu"))
    (expected, expected_rows), (losses, rows) = curve(here, 10), curve(there, 10)
    assert len(losses) == 100
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-12)
    for name, array in weights(there).items():
        np.testing.assert_allclose(array, weights(here)[name], rtol=0, atol=1e-11, err_msg=name)
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]


def test_the_stn_learns_as_on_the_cpu_in_float32(library, digits):
    """As people train, for thirty steps: rounding of 6e-8 grew to 3e-8 of the loss.

    It would not stay so: after a hundred and fifty steps it is a thousandth, as between any two that add up in
    another order.
    """
    here, there = (make_trainer(device, digits) for device in ("cpu", "gpu"))
    (expected, expected_rows), (losses, rows) = curve(here, 3), curve(there, 3)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, rel=1e-5)


# --- what a step waits for ----------------------------------------------------------------------------------------


def test_steps_neither_wait_nor_copy(cupy, digits):
    trainer, counts = make_trainer("gpu", digits), cupy._stand_in.counts
    batches = trainer.train_loader.batches()
    trainer.train_step(*next(batches))  # sends the data, and what kernels keep there
    counts.clear()
    for images, labels in batches:
        trainer.train_step(images, labels)
    assert trainer.step == 10
    assert counts["kernel"] > 0
    assert {what: counts[what] for what in ("h2d", "d2h", "synchronise")} == {"h2d": 0, "d2h": 0, "synchronise": 0}
    assert trainer.read_metrics().images == 80
    assert counts["d2h"] == 2  # the losses of all ten steps, and how many answers were right
    assert trainer.metrics.loss > 0
    assert trainer.metrics.accuracy <= 1
    assert counts["d2h"] == 2  # once is enough


def test_more_steps_than_there_are_slots(library, digits, monkeypatch):
    monkeypatch.setattr(training._Unread, "slots", 4)
    losses = np.random.default_rng(0).random(11).astype(np.float32)
    table, labels = Tensor(np.eye(5, dtype=np.float32)).to("gpu"), Tensor(np.array([0, 1, 2, 0, 0])).to("gpu")
    metrics, read = training.Metrics(), []
    for k, loss in enumerate(losses):
        if k == 6:
            read += metrics.read()  # losses 4 and 5; those before were read when the slots were full
        metrics.add(table, labels, Tensor(loss.reshape(())).to("gpu"))
    read += metrics.read()
    assert read == [float(loss) for loss in [*losses[4:6], losses[10]]]
    assert metrics.images == 55
    assert metrics.correct == 33
    assert metrics.loss == pytest.approx(losses.astype(float).mean(), rel=1e-15)


def test_labels_that_are_no_classes_are_never_correct(library):
    metrics, boxes = training.Metrics(), Tensor(np.zeros((4, 1, 4), np.int64)).to("gpu")
    for shape in ((4, 4), (4, 3, 5)):  # the first answer is the largest
        answers = Tensor(np.zeros(shape, np.float32)).to("gpu")
        metrics.add(answers, boxes.data, Tensor(np.float32(0.5)).to("gpu"))
    assert metrics.as_dict() == {"images": 8, "loss_sum": 4.0, "correct": 0}


# --- steps as a graph ---------------------------------------------------------------------------------------------


def test_a_recorded_step_is_the_step(library, digits):
    """Bit for bit, dropout, schedule and a last batch of another size included; and it is one launch."""
    ends, trainers = [], [make_trainer("gpu", digits, batch_size=24, capture=capture) for capture in (False, True)]
    for trainer in trainers:
        with _cuda.recordable():  # of the two products of dense layers the same one
            losses, rows = curve(trainer, 3)
        ends.append((losses.tolist(), rows, random.get_state()))
    assert ends[0] == ends[1]
    if stand_in := getattr(library, "_stand_in", None):
        assert stand_in.counts["graph"] == 3 * 4 - 2  # the first step of each size of batch is none
    expected, ended = map(weights, trainers)
    for name, array in ended.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_recorded_step_neither_waits_nor_copies(cupy, digits):
    trainer, counts = make_trainer("gpu", digits, capture=True), cupy._stand_in.counts
    batches = trainer.train_loader.batches()
    for _ in range(2):
        trainer.train_step(*next(batches))
    counts.clear()
    for images, labels in batches:
        trainer.train_step(images, labels)
    parameters = len(list(trainer.model.parameters()))
    assert {what: counts[what] for what in ("h2d", "d2h", "synchronise", "graph")} == {
        "h2d": 0,
        "d2h": 0,
        "synchronise": 0,
        "graph": 8,
    }
    assert counts["kernel"] == 8 * (parameters + 4)  # updates; the batch, two masks, and a slot for the loss


def test_a_recording_ends_with_what_it_was_made_of(library, digits):
    """Other arrays or another generator, and the step is recorded anew."""
    trainer, plain = (make_trainer("gpu", digits, model=Dense, capture=capture) for capture in (True, False))
    batches = list(trainer.train_loader.batches())
    changes = {
        3: lambda t: t.model.to("cpu").to("gpu"),
        5: lambda t: ministn.manual_seed(7),
        7: lambda t: t.model.load_state_dict({k: v.numpy() / 2 for k, v in t.model.state_dict().items()}),
    }
    for t in (trainer, plain):
        ministn.manual_seed(3)
        with _cuda.recordable():
            for number, batch in enumerate(batches):
                changes.get(number, lambda t: None)(t)
                t.train_step(*batch)
    for name, array in weights(trainer).items():
        np.testing.assert_array_equal(array, weights(plain)[name], err_msg=name)
    assert trainer.read_metrics().as_dict() == plain.read_metrics().as_dict()


def test_a_recorded_mask_has_memory_of_its_own(library, digits):
    """A mask is drawn before the graph runs: an array that is gone by then must not have been where the mask is."""

    class WithSomethingPassing(Dense):
        def forward(self, x):
            hidden = F.relu(self.fc1(F.flatten(x, 1)))
            passing = hidden.data + 1  # of the mask's size
            del passing
            return F.log_softmax(self.fc2(self.dropout(hidden)), dim=1)

    trainers = [make_trainer("gpu", digits, model=WithSomethingPassing, capture=capture) for capture in (True, False)]
    for trainer in trainers:
        ministn.manual_seed(3)
        with _cuda.recordable():
            for batch in trainer.train_loader.batches():
                trainer.train_step(*batch)
    recorded, plain = (trainer.read_metrics().as_dict() for trainer in trainers)
    assert recorded == plain


def test_a_model_that_cannot_be_recorded_says_why(cupy, digits):
    class Reads(Dense):
        def forward(self, x):
            return super().forward(x * float(x.max()))

    trainer = make_trainer("gpu", digits, model=Reads, capture=True)
    batches = trainer.train_loader.batches()
    trainer.train_step(*next(batches))
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        trainer.train_step(*next(batches))
    trainer.capture = False
    trainer.train_step(*next(batches))  # nothing was left half recorded
    assert np.isfinite(trainer.read_metrics().loss)


# --- losses that are not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_an_optimisers_state_follows_the_parameters(library, first, second):
    def weights_after_steps(*devices):
        layer = nn.Linear(3, 2).astype(np.float64)
        layer.weight.data[...], layer.bias.data[...] = 1, 2
        optimizer = optim.Adam(layer.parameters(), lr=0.1)
        for device in devices:
            layer.to(device)
            for parameter in layer.parameters():
                parameter.grad = Tensor(np.full(parameter.shape, 0.5)).to(device) * parameter.detach()
            optimizer.step()
        return np.append(layer.weight.detach().numpy(), layer.bias.detach().numpy())

    moved = weights_after_steps(first, first, second, second)
    np.testing.assert_allclose(moved, weights_after_steps(*["cpu"] * 4), rtol=1e-12)


def test_a_loss_that_is_not_finite_is_found_when_it_is_read(library, digits):
    trainer = make_trainer("gpu", digits, optimizer="sgd")
    before = weights(trainer)

    def poison(t):
        if t.step == 3:
            t.model.fc2.bias.data[0] = np.nan

    with pytest.raises(training.NonFiniteLossError, match=r"the loss is nan in epoch 1, step 4, with learning rate"):
        trainer.fit(1, on_step=poison)
    assert trainer.step == 10  # nobody looked before the epoch's end
    assert np.isnan(weights(trainer)["fc1.weight"]).any()
    assert np.isfinite(before["fc1.weight"]).all()


def test_spoilt_weights_are_not_saved(library, digits, tmp_path):
    trainer = make_trainer("gpu", digits, optimizer="sgd")
    path = tmp_path / "checkpoint.safetensors"
    records.save_checkpoint(path, trainer)
    before = path.read_bytes()
    trainer.model.fc2.bias.data[0] = np.nan
    trainer.train_step(*next(trainer.train_loader.batches()))
    with pytest.raises(training.NonFiniteLossError, match="epoch 1, step 1,"):
        records.save_checkpoint(path, trainer)
    assert path.read_bytes() == before


# --- from one device to the other ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("cpu", "gpu"), ("gpu", "cpu")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_checkpoint_goes_on_on_the_other_device(library, digits, tmp_path, first, second, optimizer):
    """In float64; the same logits as a run that never moved, to the rounding of a few steps.

    With AdamW, labels are smoothed and an average of the weights is kept and evaluated.
    """

    def make(device):
        trainer = make_trainer(device, digits, np.float64, model=Dense, optimizer=optimizer)
        trainer.train_loader = with_plain_attributes(trainer.train_loader)
        if optimizer == "adamw":
            trainer.loss = functools.partial(F.nll_loss, label_smoothing=0.1)
            trainer.average = optim.ExponentialMovingAverage(trainer.model, 0.8)
        return trainer

    logits, histories = {}, {}
    for devices in (first, first), (first, second):
        trainer = make(devices[0])
        ministn.manual_seed(2)
        for images, labels in list(trainer.train_loader.batches())[:4]:
            trainer.train_step(images, labels)
        path = tmp_path / "checkpoint.safetensors"
        records.save_checkpoint(path, trainer)
        assert all(isinstance(array, np.ndarray) for array in safetensors.numpy.load_file(path).values())

        resumed = make(devices[1])
        records.read_checkpoint(path).restore(resumed)
        assert {parameter.device for parameter in resumed.model.parameters()} == {devices[1]}
        resumed.fit(1)
        images = Tensor(np.random.default_rng(0).random((4, 1, 28, 28))).to(devices[1])
        logits[devices], histories[devices] = resumed.model(images).detach().numpy(), resumed.history
    np.testing.assert_allclose(*logits.values(), rtol=1e-11)
    stayed, moved = ([row[0]["train_loss"], row[0]["test_loss"]] for row in histories.values())
    assert moved == pytest.approx(stayed, rel=1e-11)


class Dense(nn.Module):
    """Two dense layers with dropout between them: quick to emulate."""

    def __init__(self, dropout):
        self.fc1, self.fc2, self.dropout = nn.Linear(784, 12), nn.Linear(12, 10), nn.Dropout(dropout)

    def forward(self, x):
        return F.log_softmax(self.fc2(self.dropout(F.relu(self.fc1(F.flatten(x, 1))))), dim=1)


def with_plain_attributes(loader):
    """An `InFloat64` that a checkpoint can be made with: it asks what the data are."""
    for name, value in vars(loader.loader).items():
        setattr(loader, name, value)
    return loader


def test_the_example_trains_on_the_gpu_and_goes_on_on_the_cpu(library, train_mnist, capsys, monkeypatch):
    arguments = ["--recipe", "tutorial", "--batch-size", "20", "--out", "run"]
    assert train_mnist.main([*arguments, "--device", "gpu", "--epochs", "1", "--deterministic", "--capture"]) == 0
    out = capsys.readouterr().out
    device = f"gpu, {ministn.backend.gpu_name()}"
    assert f"\ndevice  {device}, deterministic kernels, steps as a graph\n" in out
    if stand_in := getattr(library, "_stand_in", None):
        assert stand_in.counts["graph"] == 3  # of 4 steps
    config = json.loads(Path("run/config.json").read_text())
    assert config["device"] == device
    assert config["deterministic"] is config["capture"] is True
    assert Path("run/warped_digits.png").stat().st_size > 0
    monkeypatch.setattr(train_mnist.Run, "report", lambda run: None)
    assert train_mnist.main(["--resume", "run", "--device", "cpu", "--epochs", "2"]) == 0
    assert json.loads(Path("run/config.json").read_text())["device"] == "cpu"
    assert ministn.backend.deterministic() is False

    assert train_mnist.main([*arguments[:-1], "other", "--device", "cpu", "--epochs", "2"]) == 0
    ended, expected = (safetensors.numpy.load_file(f"{run}/model.safetensors") for run in ("run", "other"))
    for name, array in ended.items():
        # 8 steps of float32 with a rate of 0.01: its rounding, 6e-8, has grown a hundredfold at most
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_auto_takes_the_gpu_where_there_is_one(library, train_mnist, capsys, monkeypatch):
    monkeypatch.setattr(train_mnist.Run, "report", lambda run: None)
    monkeypatch.setattr(train_mnist.Run, "train", lambda run: None)
    assert train_mnist.main(["--out", "run", "--device", "auto"]) == 0
    assert f"\ndevice  gpu, {ministn.backend.gpu_name()}\n" in capsys.readouterr().out
