"""examples/coordconv_not_so_clevr.py: what it measures, that the penalty is the paper's, and that it goes on."""

import json

import coordconv_not_so_clevr as example
import numpy as np
import pytest

from ministn import Tensor
from ministn.data import not_so_clevr as data
from ministn.models import not_so_clevr

CENTRES = np.array([[20, 50], [4, 59]])


def run_of(task, layer, **changes):
    return example.Run(task, layer, "uniform", 0, example.RECIPES[task, layer], **changes)


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
    assert example.loss(task, Tensor(right), CENTRES).item() < 1e-10
    exchanged = example.loss(task, Tensor(right[::-1].copy()), CENTRES).item()
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
    """Coordinates are pixels, as in the paper's code, not from -1 to 1; the image has 1 at the centre."""
    np.testing.assert_array_equal(example.inputs("classification", CENTRES).data, CENTRES)
    image = example.inputs("regression", CENTRES).data
    assert image.shape == (2, 1, 64, 64)
    np.testing.assert_array_equal(np.argwhere(image), [[0, 0, 50, 20], [1, 0, 59, 4]])
    assert image.max() == 1


def test_the_penalty_is_that_of_the_paper():
    """l2 sum(w^2) of the kernels alone: with no other gradient Adam is given 2 l2 w, and biases are left alone."""
    run = run_of("classification", "coordconv")
    model, optimizer = example.build(run)
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
    assert len(result["answers"]["test"]) == result["centres"]["test"]
    assert (tmp_path / f"{task}-quadrant-released-quick.png").stat().st_size > 10_000

    example.main(arguments)
    assert "finished before" in capsys.readouterr().out
    assert path.read_text() == text
    with pytest.raises(SystemExit, match="is a run with other settings"):
        example.main([*arguments, "--lr", "0.1"])


def test_a_seed_gives_the_same_run_again():
    recipe = {**example.QUICK, "epochs": 1}
    run = run_of("regression", "coordconv", quick=True)
    run = example.dataclasses.replace(run, recipe=example.dataclasses.replace(run.recipe, **recipe))
    first, second = example.train(run), example.train(run)
    assert first["answers"] == second["answers"]
    other = example.train(example.dataclasses.replace(run, seed=1))
    assert first["answers"] != other["answers"]
