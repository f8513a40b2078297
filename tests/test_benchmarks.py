"""The benchmarks measure what they say: statistics, the processes they run in, and that both sides do the same work."""

from __future__ import annotations

import functools
import json
import os

import numpy as np
import pytest
import side_by_side
from side_by_side import MINISTN, PYTORCH, Case, Result, Sketch, Spread, Worker, WorkerError

# --- toy work, prepared in the workers ----------------------------------------------------------------------------


class Clock:
    """Time that passes only where somebody sleeps, in place of the module `time`."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def process_time(self):
        return 0.0


def sleeping(seconds):
    """For workers, whose clock it replaces."""
    side_by_side.time = clock = Clock()
    return lambda: clock.sleep(seconds)


def adding(number):
    return lambda: [np.arange(5.0) + number]


def failing():
    raise ValueError("no such work")


def leave():
    os._exit(3)


def fill_and_drop(size):
    np.ones(size, np.uint8)


def variable(name):
    return os.environ.get(name)


# --- statistics ---------------------------------------------------------------------------------------------------


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(median=3, low=2, high=4)
    assert Spread.of([1, 2]) == Spread(1.5, 1.25, 1.75)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_ratios_are_taken_turn_by_turn():
    """A machine that gets four times slower half way changes no ratio, though it changes all times."""
    result = Result(Case("work", {}, flop=6e9), 1, {MINISTN: [1, 1, 4, 4, 4], PYTORCH: [2, 2, 8, 8, 8]})
    assert result.ratio() == Spread(2, 2, 2)
    assert result.ratio(PYTORCH, MINISTN) == Spread(0.5, 0.5, 0.5)
    assert result.time(MINISTN) == Spread(4, 1, 4)
    assert result.gflops(MINISTN) == 1.5  # 6 GFLOP in 4 s
    uneven = Result(Case("work", {}), 1, {MINISTN: [1, 1, 1], PYTORCH: [2, 3, 7]})
    assert uneven.ratio() == Spread(3, 2.5, 5)


def test_result_as_json():
    result = Result(Case("work", {}, flop=4e9, facts={"size": 3}), 2, {MINISTN: [0.5] * 3, PYTORCH: [1.0] * 3})
    assert json.loads(json.dumps(result.as_json())) == {
        "case": "work",
        "threads": 2,
        "size": 3,
        "times": {
            MINISTN: {"median_ms": 500, "quartiles_ms": [500, 500], "turns": 3},
            PYTORCH: {"median_ms": 1000, "quartiles_ms": [1000, 1000], "turns": 3},
        },
        "flop": 4e9,
        "gflops": {MINISTN: 8, PYTORCH: 4},
        "times_faster_than_pytorch": {MINISTN: {"median": 2, "quartiles": [2, 2]}},
    }


@pytest.mark.parametrize(
    ("reached", "goals", "cells"),
    [
        (1.9, (2, 4), ["2", "4", "NOT YET"]),
        (2.0, (2, 4), ["2", "4", "enough"]),
        (4.0, (2, 4), ["2", "4", "the aim"]),
        (9.0, None, [""] * 3),
    ],
)
def test_verdict(reached, goals, cells):
    assert side_by_side.verdict(reached, goals) == cells


def test_sketches_tell_arrays_apart():
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 40, 50)).astype(np.float32)
    sketch = Sketch.of(x)
    assert sketch.agrees_with(Sketch.of(np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)))  # memory does not matter
    assert sketch.agrees_with(Sketch.of(x + np.float32(1e-6)))
    assert not sketch.agrees_with(Sketch.of(x.reshape(3, 50, 40)))
    assert not sketch.agrees_with(Sketch.of(np.swapaxes(x, 1, 2).reshape(x.shape)))  # the same numbers elsewhere
    assert not sketch.agrees_with(Sketch.of(1.01 * x))
    assert not sketch.agrees_with(Sketch.of(np.full_like(x, np.nan)))


# --- workers and the race -----------------------------------------------------------------------------------------


def test_worker_has_its_threads_from_the_start(monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Worker(1) as worker:
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            assert worker.ask(variable, name) == "1"
        assert worker.ask(os.getpid) != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "7"  # ours are as before
    assert "NUMBA_NUM_THREADS" not in os.environ


def test_worker_tells_what_went_wrong():
    with Worker(1) as worker:
        with pytest.raises(WorkerError, match="ValueError: no such work"):
            worker.ask(side_by_side.prepare, failing)
        assert worker.ask(abs, -3) == 3  # and goes on
        with pytest.raises(WorkerError, match="exit code 3"):
            worker.ask(leave)


def test_race_of_two_sleepers():
    sides = {MINISTN: functools.partial(sleeping, 0.005), PYTORCH: functools.partial(sleeping, 0.05)}
    (result,) = side_by_side.race([Case("sleep", sides)], [1], rounds=4, turn=0.01)
    assert result.seconds == {MINISTN: pytest.approx([0.005] * 4), PYTORCH: pytest.approx([0.05] * 4)}
    assert result.ratio().median == pytest.approx(10)


def test_long_calls_have_fewer_turns():
    sides = {"a": functools.partial(sleeping, 0.03)}
    (result,) = side_by_side.race([Case("sleep", sides)], [1], rounds=12, turn=0.001)
    assert result.seconds["a"] == pytest.approx([0.03] * 4)


def test_race_refuses_different_work():
    sides = {"a": functools.partial(adding, 1), "b": functools.partial(adding, 1)}
    assert len(side_by_side.race([Case("same", sides)], [1], rounds=1, turn=0.001)) == 1
    sides["c"] = functools.partial(adding, 2)
    with pytest.raises(ValueError, match="other: c and a do not compute the same"):
        side_by_side.race([Case("other", sides)], [1], rounds=1, turn=0.001)


def test_a_turn_makes_enough_calls(monkeypatch):
    calls, clock = [], Clock()
    monkeypatch.setattr(side_by_side, "time", clock)
    assert side_by_side.prepare(lambda: lambda: calls.append(clock.sleep(0.01))) == []
    assert len(calls) == 1
    side_by_side.repeat(3)
    assert len(calls) == 4
    assert side_by_side.take_turn(0.005, calls=3) == pytest.approx(0.01)
    assert len(calls) == 4 + 1 + 3  # one to warm up
    assert side_by_side.take_turn(0.0009, calls=3) == pytest.approx(0.01)
    assert len(calls) == 8 + 1 + 1  # one call is more than ten such turns
    side_by_side.prepare(lambda: lambda: None)  # forgets the list


def test_peak_memory():
    with Worker(1) as worker:
        worker.ask(np.zeros, 1)
        before = worker.ask(side_by_side.peak_memory)
        if before is None:
            pytest.skip("this system does not tell")
        worker.ask(fill_and_drop, 100_000_000)
        assert 90e6 < worker.ask(side_by_side.peak_memory) - before < 120e6


# --- the scripts --------------------------------------------------------------------------------------------------

QUICK = ["--quick", "--threads", "1"]


def read(path):
    content = json.loads(path.read_text())
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert {"processor", "python", "numpy", "numba", "torch", "ministn"} <= content["setting"].keys()
    return content


def test_kernels(tmp_path, capsys):
    pytest.importorskip("torch")
    import kernels

    kernels.main([*QUICK, "--only", "8->10 k5", "--folder", str(tmp_path)])
    content = read(tmp_path / "kernels.json")
    rows = content["results"]
    assert rows[0]["case"].rpartition(", ")[0] == "conv 8->10 k5 on 11x11"
    assert len(rows) == 3
    # 64 images, 10 x 8 filters of 5 x 5 on 7 x 7 output pixels, a multiplication and an addition each
    assert all(row["flop"] == 2 * 64 * 10 * 8 * 25 * 49 for row in rows)
    for row in rows:
        seconds = row["times"][MINISTN]["median_ms"] / 1e3
        assert row["gflops"][MINISTN] == pytest.approx(row["flop"] / seconds / 1e9)
        # The peak may have been measured when others had half of the processor, and the kernel when they had not.
        assert 0 < row["gflops"][MINISTN] < 4 * content["setting"]["fma_peak_gflops"]["1"]
    out = capsys.readouterr().out
    assert "| conv 8->10 k5 on 11x11, d weight, bias" in out
    assert content["setting"]["processor"] in out


def test_every_case_of_the_kernels_has_goals_and_a_name_of_its_own():
    import kernels

    cases = kernels.all_cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert case.facts["least"] >= 1
        assert ("aim" in case.facts) != ("part_of_peak" in case.facts)


@pytest.mark.parametrize(
    "name",
    [
        "spatial transform (64, 1, 28, 28)",
        "affine grid, then grid sample (64, 1, 28, 28)",
        "grid sample bicubic, reflection (64, 1, 28, 28)",
        "max pool 2x2",
        "batch norm (64, 10, 12, 12)",
        "dense 90->32",
    ],
)
def test_both_sides_compute_the_same(name):
    """In this process; the race refuses anything else for all cases."""
    pytest.importorskip("torch")
    import kernels

    (case,) = [case for case in kernels.all_cases() if case.name.startswith(name)]
    sketches = {}
    for side, make in case.sides.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            sketches[side] = [Sketch.of(np.asarray(array)) for array in make()()]
    assert len(sketches[PYTORCH]) > 1
    side_by_side._check_same_work(case, sketches)


def test_convolution_ladder(tmp_path):
    pytest.importorskip("torch")
    import convolution_ladder

    convolution_ladder.main([*QUICK, "--only", "10->20", "--folder", str(tmp_path)])
    (row,) = read(tmp_path / "convolution_ladder.json")["results"]
    assert list(row["times"]) == ["NumPy", "naive loops", "batch-last loops", "ministn", "PyTorch"]
    assert row["gflops"]["ministn"] > row["gflops"]["naive loops"]  # some thirty times in truth


def test_growth(tmp_path):
    pytest.importorskip("torch")
    import growth

    growth.main([*QUICK, "--only", "channels 4", "--folder", str(tmp_path)])
    (row,) = read(tmp_path / "growth.json")["results"]
    assert (row["panel"], row["position"], row["images"]) == ("channels", 4, 64)


def test_distortions(tmp_path, capsys):
    import distortions

    distortions.main([*QUICK, "--only", "FCN affine on TC", "--folder", str(tmp_path)])
    content = json.loads((tmp_path / "distortions.json").read_text())
    (row,), (made,) = content["cells"], content["sets"]
    assert (row["model"], row["transform"], row["set"], row["threads"]) == ("ST-FCN", "affine", "TC", 1)
    assert row["share"] == pytest.approx(row["batch_seconds"] / (row["batch_seconds"] + row["step_seconds"]))
    steps = 60_000 // 128 * (row["batch_seconds"] + row["step_seconds"])
    assert row["minutes"] == pytest.approx(row["epochs"] * (steps + row["test_seconds"]) / 60)
    assert {"processor", "python", "numpy", "numba", "ministn", "load_before"} <= content["environment"].keys()
    assert f"| {made['images_per_second']:,.0f} " in capsys.readouterr().out


def test_calibrate_projection(tmp_path, capsys):
    import calibrate_projection

    calibrate_projection.main(["--quick", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "projection_sigma.json").read_text())
    rows = result["results"]
    assert [(row["set"], row["sigma"], row["paper_percent"]) for row in rows[:4]] == [
        *(("R", None, 2.1), ("RTS", None, 5.2), ("E", None, 3.2), ("P", 2.0, 3.1)),
    ]
    assert [row["sigma"] for row in rows[3:]] == [2, 2.5, 2.75, 3, 4, 5]
    assert all(0 < row["error_percent"] <= 100 and row["parameters"] <= 400_000 for row in rows)
    assert (result["recipe"]["epochs"], result["environment"]["threads"]) == (1, 1)
    assert f"P, sigma 2.75: {rows[5]['error_percent']:.2f} % (paper 3.1 %)" in out
    (tmp_path / "projection_sigma.png").unlink()
    calibrate_projection.main(["--plot", "--folder", str(tmp_path)])
    assert (tmp_path / "projection_sigma.png").read_bytes().startswith(b"\x89PNG")


def test_undo_rotation(tmp_path, capsys):
    import undo_rotation

    undo_rotation.main(["--quick", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    plain, smoothed = json.loads((tmp_path / "undo_rotation.json").read_text())["results"]
    assert (plain["label_smoothing"], smoothed["label_smoothing"]) == (0, 0.1)
    assert plain["undone"] != smoothed["undone"]
    assert len(plain["turned"]) == len(plain["undone"]) > 0
    assert plain["turned"] == smoothed["turned"]  # the same digits
    assert f"smoothing 0.1, epoch 1: slope {smoothed['slope'][0]:.2f}, test error " in out
    assert (tmp_path / "undo_rotation.png").read_bytes().startswith(b"\x89PNG")


def test_angles_by_which_grids_are_turned():
    from undo_rotation import angles, slopes

    turned = np.linspace(-80, 80, 9)
    c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    scaled = 0.7 * np.stack([np.stack([c, -s, 0 * c], axis=-1), np.stack([s, c, 0 * c], axis=-1)], axis=1)
    np.testing.assert_allclose(angles(scaled), turned, rtol=1e-12, atol=1e-12)  # rounding of sines
    # A stretch before the rotation does not turn its grid, since the rotation is the nearest one.
    np.testing.assert_allclose(angles(scaled @ np.diag([2.0, 0.5, 1.0])), turned, rtol=1e-12, atol=1e-12)
    undone = np.concatenate([0.5 * turned + 3, -2 * turned])
    found = slopes(np.tile(turned, 2), undone, np.repeat([4, 7], len(turned)))
    np.testing.assert_allclose(found, [0.5, -2], rtol=1e-12)


def test_the_sigma_of_the_papers_error():
    from calibrate_projection import as_hard_as_the_papers

    def of(*points):
        return as_hard_as_the_papers([{"sigma": sigma, "error_percent": error} for sigma, error in points])

    assert of((None, 2.2), (4.0, 3.1**2), (2.0, 1.0)) == 3.0  # half way between 1 and 3.1^2, as logarithms
    assert of((2.0, 3.1), (3.0, 4.0)) == 2.0
    assert of((2.0, 3.2), (3.0, 4.0)) is None
    assert of((None, 3.1), (2.0, 1.0)) is None


def test_train_step(tmp_path, capsys):
    pytest.importorskip("torch")
    import train_step

    options = ["--only", "stn, batch 64", "--steps-only", "--folder", str(tmp_path)]
    train_step.main([*QUICK, *options])
    content = read(tmp_path / "train_step.json")
    (row,) = content["results"]
    assert row["goal"] == [3, 5]
    for side in (MINISTN, PYTORCH):
        assert row["seconds_per_epoch"][side] == pytest.approx(row["times"][side]["median_ms"] / 1e3 * 60_000 / 64)
    assert "| stn, batch 64 | 1       |" in capsys.readouterr().out


@pytest.mark.slow
def test_peak_memory_of_training():
    pytest.importorskip("torch")
    import train_step

    figures = train_step.peak_memory(steps=2, threads=1, source=100)
    frugal, whole = figures[PYTORCH], figures[f"{PYTORCH}, the data as one tensor"]
    assert 50 < figures[MINISTN] < 1000  # MB
    assert 100 < frugal < 2000
    assert abs(whole - frugal) < 50  # a hundred digits take no memory


def test_waiting_is_measured_from_outside():
    import train_step

    assert train_step._wall_seconds("import time; time.sleep(0.3)", 1) > 0.3
    assert (
        train_step._run_python("import os; print(os.environ['OMP_NUM_THREADS'], os.environ['A'])", 1, {"A": "b"})
        == "1 b\n"
    )
    with pytest.raises(RuntimeError, match="it ended before the first step"):
        train_step._run_python("import sys; sys.exit('it ended before the first step')", 1)


def test_no_such_case(capsys):
    import kernels

    arguments = side_by_side.parser("").parse_args([*QUICK, "--only", "9->9"])
    with pytest.raises(SystemExit, match="no case has '9->9' in its name; there are: conv 1->8 k7 on 28x28, forward"):
        side_by_side.run(arguments, kernels.all_cases(), "kernels")


# --- the CoordConv twin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-3), (np.float64, 1e-11)])
def test_the_coordconv_twin_is_equal(dtype, tolerance):
    """Values and the gradients of all parameters, with weights that use the coordinates and really warp."""
    torch = pytest.importorskip("torch")
    from torch_stn import TorchCoordSTN

    import ministn.functional as F
    from ministn import Tensor, manual_seed, models

    manual_seed(0)
    random = np.random.default_rng(1)
    ours = models.MnistSTN(coord_conv=True, dropout=0.0).astype(dtype)
    ours.load_state_dict(
        {
            name: tensor.numpy() + 0.03 * random.standard_normal(tensor.shape).astype(dtype)
            for name, tensor in ours.state_dict().items()
        }
    )
    theirs = TorchCoordSTN(dropout=0.0).to(torch.float64 if dtype == np.float64 else torch.float32)
    theirs.load_state_dict({name: torch.from_numpy(t.numpy().copy()) for name, t in ours.state_dict().items()})

    images, labels = random.standard_normal((20, 1, 28, 28)).astype(dtype), np.arange(20) % 10
    our_output, their_output = ours(Tensor(images)), theirs(torch.from_numpy(images))
    np.testing.assert_allclose(our_output.detach().numpy(), their_output.detach().numpy(), rtol=0, atol=tolerance)
    F.nll_loss(our_output, labels).backward()
    torch.nn.functional.nll_loss(their_output, torch.from_numpy(labels)).backward()
    expected = dict(theirs.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == expected.keys()
    for name, parameter in ours.named_parameters():
        gradient = expected[name].grad.numpy()
        assert np.abs(gradient).max() > 0, name
        error = np.abs(parameter.grad.numpy() - gradient).max() / np.abs(gradient).max()
        assert error < tolerance, name


def test_two_cores_read_their_own_half_or_the_others():
    import two_cores  # here: the workers import this file, and shall not load Numba with it

    x, sums = np.zeros((2, two_cores.HALF), np.float32), np.zeros(2 * two_cores.LINE, np.float32)
    x[1] = 2
    two_cores._write_halves(x)
    assert (x[0] == 1).all()
    assert (x[1] == 3).all()
    lines = two_cores.HALF // two_cores.LINE  # one number of each is read
    for swapped, expected in ((False, [lines, 3 * lines]), (True, [3 * lines, lines])):
        two_cores._read_halves(x, swapped, sums)
        assert sums[:: two_cores.LINE].tolist() == expected
