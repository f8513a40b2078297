"""examples/coordconv_stn.py: networks differ in the coordinates alone; what it measures; that it goes on."""

import dataclasses
import json

import coordconv_not_so_clevr as runner
import coordconv_stn as example
import numpy as np
import pytest

from ministn import Tensor, nn, no_grad, training


def run_of(data="RTS", reading="dense", layer="coordconv", **changes):
    recipe = dataclasses.replace(example.Recipe(), **{**example.QUICK, **changes})
    return example.Run(data, reading, layer, "strokes", 0, recipe, quick=True)


@pytest.fixture(scope="module")
def dataset():
    return example.load_digits("strokes", None, quick=True)


@pytest.mark.parametrize("data", example.SETS)
@pytest.mark.parametrize("reading", example.READINGS)
@pytest.mark.parametrize("layer", ["coordconv", "plain-start"])
def test_layers_differ_in_the_weights_of_coordinates_alone(data, reading, layer, dataset):
    """Two more input channels in both convolutions: 20 filters of 5 x 5 each."""
    conv, coordconv = (example.build(run_of(data, reading, name), dataset).model for name in ("conv", layer))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (conv, coordconv)]
    assert shapes[0].keys() == shapes[1].keys()
    differing = {name: (shapes[0][name], shapes[1][name]) for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert list(differing.values()) == [((20, 1, 5, 5), (20, 3, 5, 5)), ((20, 20, 5, 5), (20, 22, 5, 5))]


@pytest.mark.parametrize(("data", "side"), [("MNIST", 1), ("R", 1), ("RTS", 4), ("TC", 9)])
def test_what_the_dense_layer_reads(data, side, dataset):
    """On 28 x 28 pixels both readings are the same network; on more the maxima leave 20 of 20 n^2 numbers."""
    widths = {}
    for reading in example.READINGS:
        model = example.build(run_of(data, reading), dataset).model
        widths[reading] = next(p.shape[1] for p in model.localisation_parameters() if p.ndim == 2)
    assert widths == {"dense": 20 * side**2, "maxima": 20}


def test_plain_convolutions_with_maxima_cannot_tell_places_apart(dataset):
    """Moved by whole cells of the last map, 4 pixels, where all windows that see it exist: the same theta."""
    image = np.zeros((1, 1, 60, 60), np.float32)
    image[0, 0, 24:26, 24:26] = 1
    moved = np.roll(image, (4, 8), axis=(2, 3))
    for layer, same in (("conv", True), ("coordconv", False)):
        model = example.build(run_of("TC", "maxima", layer), dataset).model
        last = model.localisation_parameters()[-2]  # which is 0, for the identity
        last.data[:] = np.random.default_rng(1).normal(0, 1, last.shape)
        model.eval()
        with no_grad():
            thetas = [model.theta(Tensor(picture)).numpy() for picture in (image, moved)]
        assert np.allclose(*thetas, atol=1e-5) == same


def test_plain_start_is_a_convolution_at_first(dataset):
    """All weights of the coordinates are 0, in the first backward pass they get a gradient."""
    trainer = example.build(run_of(layer="plain-start"), dataset)
    layers = [layer for layer in trainer.model.transformer.localisation if isinstance(layer, nn.CoordConv2d)]
    last = trainer.model.localisation_parameters()[-2]  # which is 0, for the identity, and would pass no gradient
    last.data[:] = 1
    assert len(layers) == 2
    for layer in layers:
        of_image, of_coordinates = np.split(layer.weight.data, [layer.in_channels], axis=1)
        assert of_image.all()
        assert not of_coordinates.any()
    images, labels = next(trainer.train_loader.batches())
    trainer.loss(trainer.model(images), labels).backward()
    for layer in layers:
        assert layer.weight.grad.data[:, layer.in_channels :].any()


@pytest.mark.parametrize("data", example.SETS)
def test_it_starts_with_the_identity(data, dataset):
    trainer = example.build(run_of(data), dataset)
    images, _ = next(trainer.train_loader.batches())
    with no_grad():
        theta = trainer.model.theta(images).numpy().reshape(-1, 2, 3)
    np.testing.assert_array_equal(theta, np.broadcast_to(np.eye(2, 3, dtype=np.float32), theta.shape))


def test_an_epoch_is_the_beginning_of_an_order_of_its_own(dataset):
    loader = example.build(run_of("MNIST"), dataset).train_loader
    assert len(loader) == 2
    epochs = [list(loader.batches()) for _ in range(2)]
    for epoch, batches in enumerate(epochs):
        labels = np.concatenate([labels for _, labels in batches])
        np.testing.assert_array_equal(labels, dataset.train_labels[loader.order(epoch)[:32]])
    assert not np.array_equal(*(batches[0][0].numpy() for batches in epochs))


def test_all_test_digits_in_the_end_and_some_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "TESTED_BETWEEN", 50)
    tested, evaluate = [], training.evaluate

    def evaluate_and_count(model, loader):
        tested.append(len(loader.images))
        return evaluate(model, loader)

    monkeypatch.setattr(example.training, "evaluate", evaluate_and_count)
    result = example.train(run_of(), tmp_path / "none")
    tested = [number for number in tested if number]  # the trainer's own test has no images
    assert tested == [50, 200, 200]  # after each epoch, and of the trained network
    assert result["test"]["accuracy"] == pytest.approx(result["history"]["accuracy"][-1], rel=1e-5)  # 6 digits


def test_steps_to():
    """The last test, with all digits, is not one of those in between."""
    result = {"history": {"accuracy": [0.5, 0.96, 0.94, 0.97, 0.99]}, "recipe": {"steps": 100}}
    assert [example.steps_to(goal, result) for goal in (0.95, 0.97, 0.98)] == [200, 400, None]


def test_table_of_two_seeds():
    def result(accuracies):
        run = {"data": "TC", "reading": "maxima", "layer": "conv", "parameters": 67969, "cpu_seconds": 80.0}
        history = {"accuracy": accuracies}
        return {**run, "test": {"accuracy": accuracies[-1]}, "history": history, "recipe": {"steps": 100}}

    *_, row = example.table([result([0.9, 0.95, 0.96]), result([0.8, 0.9, 0.94])]).splitlines()
    assert row == "| TC | maxima | conv | 67,969 | 2 | 5.00 (4.00 to 6.00) | 200, 1 of 2 | 80 |"


def test_quick_run_leaves_a_result_and_a_picture(tmp_path, capsys):
    for layer in example.LAYERS:
        arguments = ["--quick", "--layer", layer, "--digits", "strokes", "--results", str(tmp_path)]
        example.main(arguments)
    path = tmp_path / "RTS-dense-plain-start-strokes-0-quick.json"
    result = json.loads(path.read_text())
    assert result["command"] == " ".join(["python", "examples/coordconv_stn.py", *arguments])
    assert {"commit", "environment", "cpu_seconds", "parameters", "seed"} <= set(result)
    assert (tmp_path / "RTS-quick.png").stat().st_size > 10_000
    example.main(arguments)
    assert "finished before" in capsys.readouterr().out


def test_it_learns(dataset):
    """40 steps before the first number; chance is log 10 = 2.30."""
    run = run_of("R", epochs=2, steps=16, batch_size=32, first_filters=8, warmup=4, label_smoothing=0.0)
    first, last = (row["train_loss"] for row in example.build(run, dataset).fit(2))
    assert last < 0.7 * first


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch):
    run = run_of(epochs=3)
    whole = example.train(run, tmp_path / "none")
    monkeypatch.setattr(runner, "SECONDS_PER_CHECKPOINT", 0)
    checkpoint, save = tmp_path / "checkpoint.safetensors", runner.records.save_checkpoint

    def save_and_stop(path, trainer):
        save(path, trainer)
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(runner.records, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            example.train(run, checkpoint)
    resumed = example.train(run, checkpoint)
    for name in ("train_loss", "accuracy"):
        assert resumed["history"][name] == whole["history"][name]
