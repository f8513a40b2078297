"""examples/coordconv_not_so_clevr.py: what it measures, that the penalty is the paper's, and that it goes on."""

import dataclasses
import json

import coordconv_not_so_clevr as example
import numpy as np
import pytest

from ministn import Tensor, nn
from ministn.data import not_so_clevr as data
from ministn.models import not_so_clevr

CENTRES = np.array([[20, 50], [4, 59]])


def run_of(task, layer, recipe="modern", **changes):
    return example.Run(task, layer, "uniform", 0, recipe, example.RECIPES[recipe][task, layer], **changes)


def certain(pixels):
    """Logits that are as sure as they can be about pixels from 0 to 1."""
    return np.where(pixels.reshape(len(pixels), -1) > 0, 50, -50).astype(np.float32)


@pytest.mark.parametrize(
    ("task", "right"),
    [
        ("classification", certain(data.one_hot(CENTRES))),
        ("rendering", certain(data.squares(CENTRES))),
        ("regression", data.normalised(CENTRES)),
    ],
)
def test_the_right_output_has_no_loss_and_is_the_right_answer(task, right):
    assert example.loss(task, Tensor(right), data.labels(CENTRES)).item() < 1e-10
    exchanged = example.loss(task, Tensor(right[::-1].copy()), data.labels(CENTRES)).item()
    if task == "regression":
        assert exchanged == (16**2 + 9**2) / 2 / 64**2  # powers of 2 are exact
    else:  # by 100 for a pixel that is taken for the other; of two squares 2 81 pixels are wrong
        assert exchanged == pytest.approx({"classification": 100, "rendering": 50 * 2 * 81 / 4096}[task])
    np.testing.assert_allclose(example.answers(task, right), CENTRES, rtol=1e-12)


def test_overlap_of_a_square_that_is_off_by_one_column():
    output = certain(data.squares(CENTRES))
    np.testing.assert_array_equal(example.overlap(output, CENTRES), 1)
    np.testing.assert_allclose(example.overlap(output, CENTRES + np.array([1, 0])), 72 / 90)
    nothing = np.full_like(output, -1)
    np.testing.assert_array_equal(example.overlap(nothing, CENTRES), 0)
    assert np.isnan(example.answers("rendering", nothing)).all()


def test_what_the_network_sees():
    """A centre in pixels, as in the paper's code, or as a CoordConv has it there; the image has 1 at the centre."""
    np.testing.assert_array_equal(example.inputs("classification", CENTRES, scaled=False).data, CENTRES)
    given = example.inputs("classification", CENTRES, scaled=True).data
    channels = nn.AddCoordinates()(Tensor(np.zeros((1, 1, 64, 64), np.float32))).data[0, 1:]
    for (x, y), centre in zip(CENTRES, given, strict=True):
        np.testing.assert_allclose(centre, channels[:, y, x], rtol=1e-6)
    image = example.inputs("regression", CENTRES, scaled=True).data
    assert image.shape == (2, 1, 64, 64)
    np.testing.assert_array_equal(np.argwhere(image), [[0, 0, 50, 20], [1, 0, 59, 4]])
    assert image.max() == 1


def test_the_penalty_is_that_of_the_paper():
    """l2 sum(w^2) of the kernels alone: with no other gradient Adam is given 2 l2 w, and biases are left alone."""
    run = run_of("classification", "coordconv", "released")
    trainer = example.build(run, CENTRES)
    model, optimizer = trainer.model, trainer.optimizer
    weights = {name: parameter.data.copy() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data += 0 if parameter.ndim == 4 else 1
        parameter.grad = Tensor(np.zeros_like(parameter.data))
    optimizer.step()
    for name, parameter in model.named_parameters():
        if (
            parameter.ndim == 4
        ):  # Adam's first step is lr g / (|g| + eps), here with g = 2 l2 w, and (1 - beta) g^2 kept
            g = 2 * run.recipe.l2 * weights[name]
            np.testing.assert_allclose(optimizer.state[parameter]["exp_avg_sq"], 0.01 * g * g, rtol=1e-4)
            moved = run.recipe.lr * g / (np.abs(g) + 1e-8)
            np.testing.assert_allclose(weights[name] - parameter.data, moved, atol=1e-6)  # of weights of size 1
        else:
            np.testing.assert_array_equal(parameter.data, weights[name] + 1)


def test_a_plain_start_is_that_of_a_convolution():
    """The first layer's output does not depend on the place; all other weights are as without the option."""
    run = run_of("regression", "coordconv")
    plain = example.build(run, CENTRES).model
    usual = example.build(
        dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, plain_start=False)), CENTRES
    ).model
    image = Tensor(np.full((1, 1, 64, 64), 2, np.float32))
    assert np.ptp(plain[0](image).data, axis=(2, 3)).max() == 0
    assert np.ptp(usual[0](image).data, axis=(2, 3)).max() > 0.1
    usual[0].weight.data[:, 1:] = 0
    for (name, ours), theirs in zip(plain.named_parameters(), usual.parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"cosine": True, "epochs": 100}, {0: 1 / 50, 49: 1, 124: 0.5, 199: 0}),
        ({"cosine": False, "epochs_per_lr": 3}, {0: 1, 5: 1, 6: 0.1, 11: 0.1, 12: 0.01}),
        ({"cosine": False, "epochs_per_lr": 0}, {0: 1, 100: 1}),
    ],
)
def test_learning_rates(changes, rates):
    """Of each step, as shares of the recipe's; two steps to an epoch."""
    run = run_of("regression", "coordconv")
    run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, batch_size=1, **changes))
    trainer = example.build(run, CENTRES)
    seen = []
    for _ in range(200):
        seen.append(trainer.optimizer.param_groups[0]["lr"] / run.recipe.lr)
        if trainer.schedule:
            trainer.schedule.step()
    assert {step: seen[step] for step in rates} == pytest.approx(rates, abs=1e-12)


def test_table_of_two_seeds():
    def result(seed, accuracy, until):
        return {
            **dataclasses.asdict(run_of("classification", "coordconv")),
            **{"seed": seed, "parameters": 7553, "test": {"accuracy": accuracy, "distance": 1 - accuracy}},
            **{"cpu_seconds_to_all_right": until, "cpu_seconds": 30.0 + seed},
        }

    *_, row = example.table([result(0, 1.0, 12.4), result(1, 0.5, None)]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("classification", "uniform", "coordconv", "modern", "7,553", "2", "1"),
        *("75.0 (50.0 to 100.0)", "0.25 (0.00 to 0.50)", "–", "12", "30 (30 to 31)"),
    ]


@pytest.mark.parametrize("layer", not_so_clevr.LAYERS)
@pytest.mark.parametrize("task", not_so_clevr.TASKS)
def test_quick_run_leaves_a_result_and_a_picture(task, layer, tmp_path, capsys):
    arguments = ["--quick", "--task", task, "--layer", layer, "--split", "quadrant", "--results", str(tmp_path)]
    example.main(arguments)
    (path,) = tmp_path.glob("*.json")
    text = path.read_text()
    assert "NaN" not in text  # which JSON does not have
    result = json.loads(text)
    assert result["command"] == " ".join(["python", "examples/coordconv_not_so_clevr.py", *arguments])
    assert {"commit", "environment", "cpu_seconds", "parameters", "seed"} <= set(result)
    assert {len(column) for column in result["history"].values()} == {2}
    assert [len(axis) for axis in result["answers"]["test"]] == 2 * [result["centres"]["test"]]
    assert text.count("\n") < 100  # lists of numbers have a line each
    assert (tmp_path / f"modern-{task}-quadrant-released-quick.png").stat().st_size > 10_000

    example.main(arguments)
    assert "finished before" in capsys.readouterr().out
    assert path.read_text() == text
    with pytest.raises(SystemExit, match="is a run with other settings"):
        example.main([*arguments, "--lr", "0.1"])


@pytest.fixture
def short():
    run = run_of("regression", "coordconv", quick=True)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, epochs=3, batch_size=4))


def test_a_seed_gives_the_same_run_again(short, tmp_path):
    first, second, other = (
        example.train(dataclasses.replace(short, seed=seed), tmp_path / "none") for seed in (0, 0, 1)
    )
    assert first["answers"] == second["answers"]
    assert first["answers"] != other["answers"]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(short, tmp_path, monkeypatch):
    whole = example.train(short, tmp_path / "none")
    monkeypatch.setattr(example, "SECONDS_PER_CHECKPOINT", 0)
    checkpoint, save = tmp_path / "checkpoint.safetensors", example.records.save_checkpoint

    def save_and_stop(path, trainer):
        save(path, trainer)
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(example.records, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            example.train(short, checkpoint)
    resumed = example.train(short, checkpoint)
    for name in ("train_loss", "accuracy", "distance"):
        assert resumed["history"][name] == whole["history"][name]
    assert resumed["answers"] == whole["answers"]


def test_a_result_from_before_an_option_was_there(tmp_path, capsys):
    """The option was off then: with its default the run is the same, with another value it is not."""
    run = run_of("rendering", "coordconv", quick=True)
    result = json.loads(json.dumps(dataclasses.asdict(run)))
    del result["recipe"]["softmax"]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    example.complete(run, path, "", 1)
    assert "finished before" in capsys.readouterr().out
    other = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, softmax=True))
    with pytest.raises(SystemExit, match="is a run with other settings"):
        example.complete(other, path, "", 1)


def test_every_epoch_has_each_centre_once_in_an_order_of_its_own(short):
    loader = example.CentreLoader(short, data.centres()[:10])
    epochs = [np.concatenate([labels for _, labels in loader.batches()]) for _ in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(data.labels(data.centres()[:10])))
    assert (epochs[0] != epochs[1]).any()
