"""examples/coordconv_detection.py: what it measures, that batches can be had again, and that it goes on."""

import dataclasses
import json

import coordconv_detection as example
import coordconv_not_so_clevr as runner
import numpy as np
import pytest

from ministn import Tensor
from ministn.data import strokes
from ministn.models.detection import anchors


def run_of(head, layer="coordconv", **changes):
    recipe = dataclasses.replace(example.Recipe(), **{**example.QUICK, **changes})
    return example.Run(head, layer, 2 if head == "proposals" else 1, "strokes", 0, recipe, quick=True)


def test_scores_of_absolute_boxes_by_hand():
    boxes = np.array([[[0.0, 0, 20, 20]], [[10, 10, 30, 30]], [[10, 10, 30, 30]], [[10, 10, 30, 30]]])
    output = np.array([[[0.0, 0, 20, 20]], [[10, 10, 30, 26]], [[10, 10, 30, 22]], [[40, 40, 60, 60]]]) / 64
    scores = example.evaluate("absolute", output, boxes)  # overlaps 1, 0.8, 0.6 and 0
    assert scores == pytest.approx({"iou": 0.6, "recall_50": 0.75, "recall_70": 0.5}, abs=1e-12)


def test_scores_of_proposals_by_hand():
    """Anchors 20 x 20 as they are: one is a digit; the other digit's is 4 pixels off and so overlaps by 320 / 480."""
    ours = [(i * 16 + j) * 9 + 4 for i, j in ((7, 4), (10, 11))]
    boxes = anchors()[ours][None].copy()
    boxes[0, 1, [0, 2]] += 4
    output = np.full((1, 2304, 5), -9.0)
    output[..., 1:] = 0
    output[0, ours, 0] = 5, 4
    scores = example.evaluate("proposals", output, boxes)
    assert scores["iou"] == pytest.approx((1 + 320 / 480) / 2)
    assert (scores["recall_50"], scores["recall_70"]) == (1, 0.5)
    # Of ten boxes the other eight are the first of the rest by number: in the corner, where no digit is.
    assert scores["proposals_iou"] == pytest.approx((1 + 320 / 480) / 10)


def test_the_right_box_has_no_loss():
    """And one that is 2 pixels off, beyond the rounding of one, has |d| - beta / 2 = 2 - 1/2 in each, in canvases."""
    boxes = np.array([[[8.0, 16, 24, 40]]])
    for off, expected in ((0, 0), (2, 1.5 / 64)):
        output = Tensor(((boxes + off) / 64).astype(np.float32))
        assert example.loss("absolute", output, boxes).item() == expected  # powers of 2 are exact


def test_batches_are_new_and_can_be_had_again():
    dataset = strokes.load(train_size=20, test_size=10, seed=0)
    run = run_of("proposals")
    loader = example.FieldLoader(run, dataset, 8)
    first, second = list(loader.batches()), list(loader.batches())
    assert (len(loader), len(first), loader.epoch) == (2, 2, 2)
    images, boxes = first[0]
    assert (images.shape, images.dtype, boxes.shape) == ((4, 1, 64, 64), np.float32, (4, 2, 4))
    assert images.numpy().max() == 1
    seen = [boxes for _, boxes in first + second]
    assert len({array.tobytes() for array in seen}) == 4
    loader.epoch = 1
    ((again, its_boxes),) = loader.batches(start=1)
    np.testing.assert_array_equal(again.numpy(), second[1][0].numpy())
    np.testing.assert_array_equal(its_boxes, second[1][1])


def test_all_runs_are_tested_with_the_same_fields():
    dataset = strokes.load(train_size=20, test_size=10, seed=0)
    (images, boxes), again = (example.tested_fields(dataset, 2, quick=True) for _ in range(2))
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(boxes, again[1])


@pytest.mark.parametrize("head", example.HEADS)
def test_quick_run_leaves_a_result_and_a_picture(head, tmp_path, capsys):
    for layer in example.LAYERS:
        arguments = ["--quick", "--head", head, "--layer", layer, "--data", "strokes", "--results", str(tmp_path)]
        example.main(arguments)
    digits = 2 if head == "proposals" else 1
    path = tmp_path / f"{head}-coordconv-{digits}-strokes-0-quick.json"
    text = path.read_text()
    result = json.loads(text)
    assert result["command"] == " ".join(["python", "examples/coordconv_detection.py", *arguments])
    assert {"commit", "environment", "cpu_seconds", "parameters", "seed"} <= set(result)
    assert {len(column) for column in result["history"].values()} == {2}
    assert result["test"]["iou"] == pytest.approx(result["history"]["iou"][-1], rel=1e-5)  # rounded to 6 digits
    assert np.shape(result["found"]) == (example.SHOWN, digits, 4)
    assert (tmp_path / f"{head}-{digits}-strokes-quick.png").stat().st_size > 10_000

    example.main(arguments)
    assert "finished before" in capsys.readouterr().out
    assert path.read_text() == text
    with pytest.raises(SystemExit, match="is a run with other settings"):
        example.main([*arguments, "--lr", "0.1"])


def test_table_of_two_seeds():
    def result(seed, **scores):
        run = {"head": "absolute", "layer": "conv", "digits": 1, "parameters": 22628, "cpu_seconds": 40.0}
        return {**run, "seed": seed, "test": scores}

    *_, row = example.table(
        [result(0, iou=0.6, recall_50=0.9, recall_70=0.5), result(1, iou=0.7, recall_50=0.9, recall_70=0.3)]
    ).splitlines()
    assert row == "| absolute | conv | 1 | 22,628 | 2 | 65.0 (60.0 to 70.0) | 90.0 | 40.0 (30.0 to 50.0) | – | 40 |"


def test_it_learns():
    """10 steps before the first number, 20 to 30 before the last; a loss that only wavers is far from 0.6 of it."""
    trainer = example.build(
        run_of("proposals", epochs=3, fields=80, batch_size=8, lr=0.01), example.load_digits("strokes", None, True)
    )
    first, _, last = (row["train_loss"] for row in trainer.fit(3))
    assert last < 0.6 * first


@pytest.mark.parametrize("arguments", [["--head", "absolute", "--digits", "2"], ["--digits", "0"]])
def test_bad_number_of_digits(arguments, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert "expected --digits to be 1" in capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch):
    run = run_of("proposals", epochs=3)
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
    for name in ("train_loss", "iou", "proposals_iou"):
        assert resumed["history"][name] == whole["history"][name]
    assert resumed["found"] == whole["found"]
