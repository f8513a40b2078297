"""Table 1: runs that are stopped in every way, what they leave, and the tables that are made of it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import importlib.util
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from implementations import real_cupy, stand_in

import ministn
from ministn import records, viz

SCRIPT = Path(__file__).parents[1] / "examples" / "reproduce_table1.py"
SMALL = ["--quick", "--digits", "strokes", "--threads", "1"]
FCN = ["--model", "FCN", "--data", "R", *SMALL]


@pytest.fixture(scope="module")
def table1():
    spec = importlib.util.spec_from_file_location("reproduce_table1", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce_table1"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce_table1"]


@pytest.fixture(autouse=True)
def own_folder(table1, monkeypatch, tmp_path):
    """And a recipe of the tests' own, so that they hold whatever numbers are found to be the best."""
    recipe = table1.Recipe(
        **{"epochs": 40, "batch_size": 128, "optimizer": "adamw", "lr": 2e-3, "localisation_lr": 0.3},
        **{"schedule": "cosine", "warmup_epochs": 1.0, "dropout": 0.3, "batch_norm": True, "average_decay": 0.9},
    )
    monkeypatch.setitem(table1.RECIPES, "modern", recipe)
    monkeypatch.setitem(table1.OVERRIDES, "modern", {})
    monkeypatch.chdir(tmp_path)


class Immediately(concurrent.futures.Executor):
    """Runs the worker's part in this process, at once: a new process takes seconds to start."""

    def submit(self, function, command, **options):
        assert function is subprocess.run
        assert command[:2] == [sys.executable, str(SCRIPT)]
        future = concurrent.futures.Future()
        code = sys.modules["reproduce_table1"].main(command[2:])
        future.set_result(subprocess.CompletedProcess(command, code))
        return future


@pytest.fixture
def here(table1, monkeypatch):
    """`main` with all runs in this process."""
    monkeypatch.setattr(table1, "make_executor", lambda options: Immediately())
    return table1.main


def result_of(name: str, folder: str = "runs/table1/results") -> dict:
    return json.loads(Path(folder, f"{name}.json").read_text())


def without_times(history: dict) -> dict:
    return {name: column for name, column in history.items() if name != "seconds"}


def same_weights(one: str | Path, other: str | Path) -> bool:
    a, b = (safetensors.numpy.load_file(path) for path in (one, other))
    return all(np.array_equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def wait_for(condition, what: str, seconds: float = 300) -> None:
    """A machine that is busy may take long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.005)


# --- what is trained ----------------------------------------------------------------------------------------------


def test_the_papers_table(table1):
    assert len(table1.PAPER) == 8 * 5
    assert table1.PAPER["ST-CNN", "affine", "R"] == 0.7
    assert table1.PAPER["ST-FCN", "tps", "E"] == 2.4
    assert table1.PAPER["CNN", None, "RTS"] == 0.8
    assert table1.PAPER["FCN", None, "TC"] == 13.2


def run_of(table1, recipe, model="ST-CNN", transform="affine", **changes):
    return table1.Run(model, transform, "R", 3, recipe, table1.recipe_for(recipe, model, "R", changes))


def digits(table1, train=60_000):
    labels = np.arange(train) % 10
    images = np.zeros((train, 28, 28), np.uint8)
    return table1.data.ImageDataset("MNIST", "here", images, labels, images[:20], labels[:20], 0.1, 0.3)


def test_the_papers_recipe_is_that_of_its_appendix(table1):
    trainer = table1.build(run_of(table1, "paper"), digits(table1))
    assert type(trainer.optimizer).__name__ == "SGD"
    for group in trainer.optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0, 0)
    assert trainer.train_loader.batch_size == 256
    assert table1.RECIPES["paper"].epochs * len(trainer.train_loader) == 641 * 234 == 149_994
    rates = [trainer.schedule.lr_at(step, 0.01) for step in (0, 49_997, 49_998, 99_995, 99_996, 149_993)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001], rtol=1e-12)  # products of tenths
    kinds = {type(module).__name__ for module in trainer.model.modules()}
    assert not kinds & {"BatchNorm1d", "BatchNorm2d", "Dropout"}
    assert trainer.average is None
    assert 390_000 < sum(parameter.numel() for parameter in trainer.model.parameters()) <= 400_000
    shorter = table1.build(run_of(table1, "paper", epochs=3), digits(table1))
    assert shorter.schedule.step_size == 234  # an epoch for each learning rate


def test_every_number_of_a_recipe_is_used(table1):
    changes = {
        **{"epochs": 4, "batch_size": 32, "optimizer": "sgd", "lr": 0.2, "localisation_lr": 0.5, "momentum": 0.8},
        **{"weight_decay": 0.3, "schedule": "cosine", "warmup_epochs": 0.5, "drop_last": True, "dropout": 0.4},
        **{"batch_norm": True, "localisation_batch_norm": True, "label_smoothing": 0.25, "average_decay": 0.9},
        **{"parameters": 90_000, "width_multiple": 4, "first_filters": 8, "pixel_mean": 0.1, "pixel_std": 0.5},
    }
    assert changes.keys() == {field.name for field in table1.dataclasses.fields(table1.Recipe)}
    trainer = table1.build(run_of(table1, "modern", **changes), digits(table1, 330))
    classifier, localisation = trainer.optimizer.param_groups
    assert trainer.schedule.base_lrs == [0.2, 0.1]
    assert trainer.schedule.warmup_steps == 5  # half of the ten batches of an epoch
    assert trainer.schedule.after.T_max == 4 * 10 - 5
    assert (classifier["momentum"], classifier["weight_decay"]) == (0.8, 0.3)
    kinds = [type(module).__name__ for module in trainer.model.modules()]
    assert (kinds.count("BatchNorm2d"), kinds.count("BatchNorm1d"), kinds.count("Dropout")) == (4, 1, 1)
    assert trainer.model.width % 4 == 0
    assert trainer.model.classifier[0].weight.shape[0] == 8
    assert sum(parameter.numel() for parameter in trainer.model.parameters()) <= 90_000
    assert trainer.average.decay == 0.9
    assert trainer.loss.keywords == {"label_smoothing": 0.25}
    assert (trainer.train_loader.mean, trainer.test_loader.std) == (0.1, 0.5)
    assert len(localisation["params"]) == 2 * 4 + 2 * 3  # four layers and three normalisations


def test_recipes_as_they_are(table1, monkeypatch):
    monkeypatch.undo()  # the tests' own
    for name, overrides in table1.OVERRIDES.items():
        for key in overrides:
            assert set(key) <= {*table1.MODELS, *table1.TRANSFORMS, *table1.ALL_SETS}
        for model, transform, data_name in table1.PAPER:
            recipe = table1.recipe_for(name, model, data_name, {}, transform)
            assert recipe.optimizer in table1.OPTIMIZERS
            assert recipe.schedule in table1.SCHEDULES
            assert recipe.parameters <= 400_000


def test_overrides_of_networks_and_sets(table1, monkeypatch):
    overrides = {("ST-CNN",): {"lr": 1.0}, ("R",): {"lr": 2.0, "dropout": 0.5}, ("ST-CNN", "E"): {"lr": 3.0}}
    overrides["ST-CNN", "tps", "E"] = {"lr": 5.0}
    monkeypatch.setitem(table1.OVERRIDES, "modern", overrides)

    def numbers(model, name, transform=None, **changes):
        recipe = table1.recipe_for("modern", model, name, changes, transform)
        return recipe.lr, recipe.dropout

    lr, dropout = table1.RECIPES["modern"].lr, table1.RECIPES["modern"].dropout
    assert numbers("FCN", "E") == (lr, dropout)
    assert numbers("ST-CNN", "TC") == (1.0, dropout)
    assert numbers("ST-CNN", "R") == (2.0, 0.5)
    assert numbers("ST-CNN", "E") == (3.0, dropout)
    assert numbers("ST-CNN", "E", "affine") == (3.0, dropout)
    assert numbers("ST-CNN", "E", "tps") == (5.0, dropout)
    assert numbers("ST-CNN", "E", lr=4.0) == (4.0, dropout)


def test_test_images_are_the_same_for_all_seeds_and_training_images_are_not(table1):
    dataset = table1.load_digits("strokes", None, True)
    recipe = table1.RECIPES["modern"]
    loaders = [table1.build(table1.Run("FCN", None, "RTS", seed, "modern", recipe), dataset) for seed in (0, 1)]
    np.testing.assert_array_equal(*(trainer.test_loader.images for trainer in loaders))
    assert loaders[0].test_loader.images.shape == (200, 42, 42)
    first, second = (next(trainer.train_loader.batches())[0].data for trainer in loaders)
    assert not np.array_equal(first, second)
    again = loaders[0].train_loader
    again.epoch = 1
    again.shuffle = False
    later = next(again.batches())[0].data
    again.epoch = 2
    assert not np.array_equal(next(again.batches())[0].data, later)  # the same digits, distorted anew


# --- a run --------------------------------------------------------------------------------------------------------


def test_a_finished_run_and_what_is_known_of_it(here, table1, capsys):
    assert here([*FCN, "--seeds", "4"]) == 0
    result = result_of("modern-FCN-R-4-quick")
    assert result["recipe"] == {**table1.dataclasses.asdict(table1.RECIPES["modern"]), **table1.QUICK}
    assert (result["model"], result["transform"], result["data"], result["seed"]) == ("FCN", None, "R", 4)
    assert (result["epochs"], result["steps"], result["train_images"], result["test_images"]) == (2, 16, 512, 200)
    assert result["test_error_percent"] == pytest.approx(100 * (1 - result["history"]["test_accuracy"][-1]), abs=1e-3)
    assert result["parameters"] <= 130_000
    assert result["wall_seconds"] > 0
    assert all(len(column) == 2 for column in result["history"].values())
    (session,) = result["sessions"]
    assert session["threads"] == 1
    assert session["environment"] == records.environment()
    assert len(session["commit"] or "") in (0, 40)
    folder = Path("runs/table1/modern-FCN-R-4-quick")
    assert {path.name for path in folder.iterdir()} == {
        *("lock", "log.txt", "model.safetensors", "result.json", "settings.json", "status.json"),
    }
    out = capsys.readouterr().out
    assert "modern-FCN-R-4-quick" in out
    assert f"error {result['test_error_percent']:.2f} %; paper 2.1 %" in out

    before = (folder / "log.txt").read_text()
    assert here([*FCN, "--seeds", "4"]) == 0  # nothing is left to do
    assert (folder / "log.txt").read_text() == before
    assert here([*FCN, "--seeds", "4", "--force"]) == 0
    assert (folder / "log.txt").read_text() != before
    assert without_times(result_of("modern-FCN-R-4-quick")["history"]) == without_times(result["history"])


def test_a_result_that_was_deleted_comes_back_without_training(here):
    here(FCN)
    path = Path("runs/table1/results/modern-FCN-R-0-quick.json")
    before = path.read_bytes()
    path.unlink()
    assert here(FCN) == 0
    assert path.read_bytes() == before  # times and all


def test_compiling_leaves_no_trace(table1):
    dataset = table1.load_digits("strokes", None, True)
    one, other = (table1.build(run_of(table1, "modern", **table1.QUICK), dataset) for _ in range(2))
    table1.compile_kernels(one)
    for name, tensor in one.model.state_dict().items():
        np.testing.assert_array_equal(tensor.data, other.model.state_dict()[name].data)
    assert all(parameter.grad is None for parameter in one.model.parameters())
    assert one.train_loader.epoch == 0


@pytest.mark.parametrize("capture", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernels", ["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_run_on_the_gpu(table1, here, monkeypatch, kernels, capture):
    """Learns as on the CPU, and is watched there."""
    on_gpu = contextlib.nullcontext(real_cupy()) if kernels == "gpu" else stand_in()
    monkeypatch.setattr(table1, "QUICK_TRAIN", 48)
    monkeypatch.setattr(table1, "QUICK_TEST", 100)  # with digits of every class
    of_run = ["--model", "ST-FCN", "--transform", "affine", "--data", "R", *SMALL, "--budget", "2"]
    of_run += ["--set", "batch_size=16", "--set", "parameters=60000", "--set", "dropout=0.0"]
    assert here([*of_run, "--out", "cpu"]) == 0
    with on_gpu:
        assert here([*of_run, "--out", "gpu", "--device", "gpu", *["--capture"] * capture]) == 0
    name = "modern-ST-FCN-affine-R-0-quick"
    cpu, gpu = (result_of(name, f"{device}/results") for device in ("cpu", "gpu"))
    np.testing.assert_allclose(gpu["history"]["train_loss"], cpu["history"]["train_loss"], rtol=1e-4)  # of 6 steps
    assert gpu["test_images_sha256"] == cpu["test_images_sha256"]
    assert gpu["sessions"][0]["gpu"]
    assert gpu["sessions"][0]["capture"] is capture
    assert "gpu" not in cpu["sessions"][0]
    watched = [viz.Watch.read(Path(device, name, "watch.npz")) for device in ("cpu", "gpu")]
    assert watched[0].moments["step"] == watched[1].moments["step"]
    np.testing.assert_allclose(watched[1].moments["lines"], watched[0].moments["lines"], atol=0.01)  # of a pixel


def test_a_gpu_that_is_not_there(table1, capsys, monkeypatch):
    def none():
        raise ministn.DeviceError("CuPy finds no GPU")

    monkeypatch.setattr(ministn.backend, "gpu_name", none)
    assert table1.main([*FCN, "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "reproduce_table1: CuPy finds no GPU\n"


def worker_command(table1, *arguments: str) -> list[str]:
    """The command that the program gives a worker for the only run of `arguments`."""
    options = table1.parse([*FCN, *arguments])
    (task,) = table1.plan(options)
    return table1.Program([task], options).command(task)


def test_a_run_that_is_killed_goes_on_to_the_same_bits(table1, here):
    epochs = ["--budget", "4"]
    assert here([*FCN, *epochs, "--out", "whole"]) == 0

    code = (
        f"import os, signal, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import reproduce_table1\n"
        "def on_step(training, trainer):\n"
        "    if (trainer.epoch, trainer.step) == (2, 3):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "reproduce_table1.Training.on_step = on_step\n"
        "reproduce_table1.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *worker_command(table1, *epochs, "--out", "killed")[2:]]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    folder = Path("killed/modern-FCN-R-0-quick").absolute()
    assert not (folder / "result.json").exists()
    assert records.read_checkpoint(folder / "checkpoint.safetensors").info["epoch"] == 2

    assert here([*FCN, *epochs, "--out", "killed"]) == 0
    whole, killed = (result_of("modern-FCN-R-0-quick", f"{out}/results") for out in ("whole", "killed"))
    assert without_times(killed["history"]) == without_times(whole["history"])
    assert same_weights("whole/modern-FCN-R-0-quick/model.safetensors", folder / "model.safetensors")
    assert (len(whole["sessions"]), len(killed["sessions"])) == (1, 2)


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_the_program_ends_its_runs(table1, how):
    """Ctrl-C asks them to save; if the program is killed they see it, save and end on their own."""
    command = [sys.executable, str(SCRIPT), *FCN, "--budget", "100000"]
    # A session of its own, so that only the program has the signal; a shell in the background would have Ctrl-C ignored
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    folder = Path("runs/table1/modern-FCN-R-0-quick")

    def is_free() -> bool:
        try:
            with table1.locked(folder):
                return True
        except table1.BusyError:
            return False

    try:
        wait_for((folder / "checkpoint.safetensors").exists, "the first checkpoint")
        process.send_signal(how)
        _, err = process.communicate(timeout=300)  # a run has the program's pipes, so until that ends, too
        wait_for(is_free, "the end of the run")
    finally:
        with contextlib.suppress(ProcessLookupError):  # if all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert shlex.split(err.splitlines()[-1])[2:] == [*FCN, "--budget", "100000"]
    assert (folder / "log.txt").read_text().endswith("interrupted\n")
    assert not list(folder.parent.glob(".stop*"))
    assert records.read_checkpoint(folder / "checkpoint.safetensors").info["epoch"] >= 1


def test_a_run_that_starts_when_the_program_has_been_stopped(table1, tmp_path):
    command = worker_command(table1)[2:]
    Path(command[command.index("--stop") + 1]).parent.mkdir(parents=True)
    Path(command[command.index("--stop") + 1]).touch()
    assert table1.main(command) == 130
    assert not Path("runs/table1/modern-FCN-R-0-quick/result.json").exists()
    assert Path("runs/table1/modern-FCN-R-0-quick/log.txt").read_text().endswith("interrupted\n")


def test_a_run_that_another_program_has(table1, here, capsys):
    with table1.locked(Path("runs/table1/modern-FCN-R-0-quick")):
        assert here([*FCN, "--seeds", "0,1", "--render"]) == 0
        err = capsys.readouterr().err
        assert "elsewhere  modern-FCN-R-0-quick: another program is at" in err
        assert "not all runs are finished: nothing rendered" in err
        assert here([*FCN, "--seeds", "1,0", "--force"]) == 2
        assert "another program is at" in capsys.readouterr().err
    assert [path.name for path in Path("runs/table1/results").iterdir()] == ["modern-FCN-R-1-quick.json"]


def test_a_run_that_diverges_is_reported_and_the_others_go_on(here, capsys):
    runs = ["--model", "FCN", "--data", "R,E", *SMALL, "--recipe", "paper", "--set", "lr=1e30"]
    assert here(runs) == 1
    err = capsys.readouterr().err
    for name in "RE":
        assert f"failed     paper-FCN-{name}-0-quick: ministn.training.NonFiniteLossError: the loss is" in err


def test_other_settings_are_refused(here, capsys):
    here(FCN)
    before = Path("runs/table1/results/modern-FCN-R-0-quick.json").read_bytes()
    capsys.readouterr()
    assert here([*FCN, "--budget", "3", "--set", "lr=0.5"]) == 2
    message = "modern-FCN-R-0-quick.json is of a run with epochs 2, not 3, lr 0.002, not 0.5 (and 1 more); --force"
    assert message in capsys.readouterr().err
    assert Path("runs/table1/results/modern-FCN-R-0-quick.json").read_bytes() == before


def test_training_anew_needs_something_to_train_with(here, capsys):
    here(FCN)
    before = Path("runs/table1/results/modern-FCN-R-0-quick.json").read_bytes()
    Path("empty").mkdir()
    assert here([*FCN, "--digits", "mnist", "--data-dir", "empty", "--force"]) == 2
    assert "empty" in capsys.readouterr().err
    assert Path("runs/table1/results/modern-FCN-R-0-quick.json").read_bytes() == before


def test_a_run_from_before_a_recipe_had_some_number(table1):
    settings = run_of(table1, "modern", label_smoothing=0.0).settings()
    older = json.loads(json.dumps(settings))
    del older["recipe"]["label_smoothing"]
    assert table1.differences(older, settings) == ""
    settings["recipe"]["label_smoothing"] = 0.1
    assert table1.differences(older, settings) == "label_smoothing 0.0, not 0.1"
    assert table1.differences(None, settings) == ""


# --- executors ----------------------------------------------------------------------------------------------------


def test_an_executor_of_ones_own(table1, tmp_path, monkeypatch):
    """What a user would write; the worker's part is done in this process, since a new one takes seconds to start."""
    run = subprocess.run

    def run_here(command, **options):
        if command[1] != str(SCRIPT):
            return run(command, **options)  # git, say
        return subprocess.CompletedProcess(command, table1.main(command[2:]))

    monkeypatch.setattr(subprocess, "run", run_here)
    (tmp_path / "my_cluster.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "class Cluster(ThreadPoolExecutor):\n"
        "    submitted = []\n"
        "    def submit(self, function, *arguments, **options):\n"
        "        self.submitted.append(arguments)\n"
        "        return super().submit(function, *arguments, **options)\n"
        "def three():\n"
        "    return Cluster(3)\n"
        "def none():\n"
        "    return 3\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert table1.main([*FCN, "--executor", "my_cluster:three"]) == 0
    assert len(sys.modules["my_cluster"].Cluster.submitted) == 1
    assert result_of("modern-FCN-R-0-quick")["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.to.be.found:x", "No module named 'nowhere'"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("json", "has no attribute ''"),
        ("collections:OrderedDict", "expected a concurrent.futures.Executor from it, got OrderedDict"),
    ],
)
def test_an_executor_that_is_none(table1, capsys, monkeypatch, name, message):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert table1.main([*FCN, "--executor", name]) == 2
    assert message in capsys.readouterr().err


# --- tables -------------------------------------------------------------------------------------------------------


def write_result(table1, model, transform, name, seed, error, **changes):
    run = run_of(table1, "modern", model, transform)
    run = table1.dataclasses.replace(run, data=name, seed=seed)
    result = {
        **run.settings(),
        **{"test_images": 10_000, "test_error_percent": error, "parameters": 399_615, "epochs": 40},
        **{"wall_seconds": 600.0, "cpu_seconds": 900.0, "sessions": [{"threads": 2}]},
        **changes,
    }
    Path("results").mkdir(exist_ok=True)
    Path("results", f"{run.name}{changes.get('suffix', '')}.json").write_text(json.dumps(result))


def render(table1) -> int:
    return table1.main(["--render", "--results", "results", "--page", "page.md"])


def test_the_tables(table1, capsys):
    on_gpu = {"sessions": [{"threads": 2}, {"gpu": "NVIDIA H200"}], "wall_seconds": 50.0, "cpu_seconds": 40.0}
    for seed, (error, where) in enumerate([(0.68, {}), (0.71, {}), (0.73, on_gpu)]):  # mean 0.7067, above 0.7
        write_result(table1, "ST-CNN", "affine", "R", seed, error, **where)
    write_result(table1, "ST-CNN", "affine", "TC", 0, 1.7, **on_gpu)
    write_result(table1, "FCN", None, "R", 0, 1.5)
    write_result(table1, "FCN", None, "R", 1, 1.9, wall_seconds=1200.0)
    write_result(table1, "FCN", None, "E", 0, 0.1, quick=True, suffix="-quick")
    write_result(table1, "FCN", None, "E", 0, 0.1, digits="strokes", suffix="-strokes")
    Path("page.md").write_text(f"# Before\n\n{table1.BEGIN}\nformer\n{table1.END}\n\nAfter.\n")
    assert render(table1) == 0
    assert capsys.readouterr().out == "6 runs: results.csv, page.md (2 left out: quick, or not of MNIST)\n"

    page = Path("page.md").read_text()
    assert page.startswith("# Before\n\n<!--")
    assert page.endswith("-->\n\nAfter.\n")
    assert "former" not in page
    assert "| FCN | 2.1 / **1.70** ± 0.28 (2) |  |  |  |  |" in page
    assert "| ST-CNN affine | 0.7 / 0.71 ± 0.03 (3) |  |  |  | 1.7 / **1.70** (1) |" in page
    assert "as in 2 of 3 cells.\n" in page
    assert "| FCN | R | 2.1 | 1.70 | 0.28 | 1.50 | 1.90 | 2 | 0 | 399,615 | 40 | 15.0 |" in page
    assert "| ST-CNN affine | R | 0.7 | 0.71 | 0.03 | 0.68 | 0.73 | 3 | 1 | 399,615 | 40 | 15.0 |" in page
    assert "| ST-CNN affine | TC | 1.7 | 1.70 | – | 1.70 | 1.70 | 1 | 1 | 399,615 | 40 | – |" in page
    assert "→" not in page  # no network both with a transformer and without
    assert "Trained with `epochs` 40, `batch_size` 128, `optimizer` adamw, " in page
    assert "Other numbers" not in page
    assert "`label_smoothing`" not in page  # which is off

    with open("results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["set"]) for row in rows] == [("FCN", "R"), ("ST-CNN", "R"), ("ST-CNN", "TC")]
    row = rows[1]
    assert (row["mean"], row["spread"], row["lowest"], row["highest"]) == ("0.7067", "0.0252", "0.68", "0.73")
    assert (row["paper"], row["at_or_below_paper"], row["seeds"], row["transform"]) == ("0.7", "no", "3", "affine")
    assert (row["epochs"], row["cpu_minutes"]) == ("40", "15.0")

    assert render(table1) == 0  # again: nothing changes
    assert Path("page.md").read_text() == page


def test_a_mean_in_the_middle_is_rounded_up(table1):
    for seed, error in enumerate([0.59, 0.60]):  # 0.595 as a float is a little less
        write_result(table1, "ST-CNN", "tps", "RTS", seed, error)
    render(table1)
    assert "| ST-CNN tps |  | 0.5 / 0.60 ± 0.01 (2) |" in Path("page.md").read_text()


def test_what_a_transformer_gains(table1):
    for model, transform, name, error in [
        *(("CNN", None, "R", 1.0), ("ST-CNN", "affine", "R", 0.61), ("ST-CNN", "tps", "R", 0.585)),
        *(("CNN", None, "TC", 1.54), ("ST-CNN", "affine", "TC", 1.15)),
        *(("CNN", None, "E", 0.87), ("ST-CNN", "affine", "P", 0.49), ("ST-FCN", "affine", "R", 0.97)),
    ]:
        write_result(table1, model, transform, name, 0, error)
    render(table1)
    page = Path("page.md").read_text()
    assert "| CNN → ST-CNN | 1.00 → 0.59 to 0.61 |  |  |  | 1.54 → 1.15 |\n" in page
    assert "FCN → ST-FCN" not in page
    assert "cells, 1 of them on P, whose corners we had to calibrate.\n" in page


def test_how_the_cells_were_trained(table1):
    usual = table1.dataclasses.asdict(table1.RECIPES["modern"])
    for model, name, recipe in [
        *(("FCN", "R", usual), ("FCN", "E", usual), ("CNN", "R", usual)),
        *(("CNN", "RTS", {**usual, "epochs": 10}), ("CNN", "TC", {**usual, "epochs": 10, "dropout": 0.0})),
    ]:
        write_result(table1, model, None, name, 0, 1.0, recipe=recipe)
    render(table1)
    page = Path("page.md").read_text()
    assert page.count("`lr` 0.002") == 1
    assert "* CNN on RTS: `epochs` 10\n* CNN on TC: `epochs` 10, `dropout` 0.0\n" in page
    rows = [{"network": "CNN", "transform": "", "set": name} for name in ("R", "E")]
    assert (
        table1._cells([*rows, {"network": "ST-CNN", "transform": "tps", "set": "P"}]) == "CNN on R, E; ST-CNN tps on P"
    )


def test_the_page_in_the_docs_is_of_the_results_there(table1, monkeypatch, tmp_path):
    """Whoever adds a result renders the page; and whoever changes a recipe trains anew."""
    monkeypatch.undo()  # the recipes of the tests
    monkeypatch.chdir(tmp_path)
    docs = SCRIPT.parents[1] / "docs"
    shutil.copytree(docs / "results" / "table1", "table1")
    shutil.copy(docs / "distorted_mnist_results.md", "page.md")
    assert table1.main(["--render", "--results", "table1", "--page", "page.md"]) == 0
    assert Path("page.md").read_text() == (docs / "distorted_mnist_results.md").read_text()
    assert Path("table1.csv").read_text() == (docs / "results" / "table1.csv").read_text()
    for path in Path("table1").iterdir():
        result = table1.read_result(path)
        recipe = table1.recipe_for(result["recipe_name"], result["model"], result["data"], {}, result["transform"])
        run = table1.Run.from_settings({name: result[name] for name in table1.SETTINGS})
        assert table1.differences(result, table1.dataclasses.replace(run, recipe=recipe).settings()) == ""


def test_the_command_in_the_readme_is_a_cell(table1):
    readme = (SCRIPT.parents[1] / "README.md").read_text()
    command = readme.partition("<!-- command: table1 -->")[2].split("```")[1].partition("reproduce_table1.py ")[2]
    (task,) = table1.plan(table1.parse(command.split()))
    assert task.run.cell in table1.PAPER


def test_a_set_that_the_paper_does_not_have(here, table1, capsys):
    assert here(["--model", "FCN", "--data", "P5", *SMALL]) == 0
    assert result_of("modern-FCN-P5-0-quick")["paper_error_percent"] is None
    out = capsys.readouterr().out
    assert "epoch 2/2, error" in out
    assert "; paper" not in out
    options = table1.parse(["--model", "FCN", "--data", "P5", *SMALL])
    error = result_of("modern-FCN-P5-0-quick")["test_error_percent"]
    assert str(table1.Program([], options).cell(table1.plan(options))) == f"{error:.2f}\n1 of 1"

    write_result(table1, "FCN", None, "P5", 0, 12.25)
    assert render(table1) == 0
    page = Path("page.md").read_text()
    assert "| network | P5 |\n|---|---|\n| FCN | 12.25 (1) |\n" in page
    assert "| FCN | P5 | – | 12.25 | – |" in page
    assert "| network | R | RTS | P | E | TC |" not in page

    write_result(table1, "FCN", None, "P", 0, 3.0)
    assert render(table1) == 0
    page = Path("page.md").read_text()
    assert "| FCN |  |  | 3.1 / **3.00** (1) |  |  |" in page
    assert "as in 1 of 1 cells" in page
    assert page.index("| FCN |  |  | 3.1") < page.index("| FCN | 12.25 (1) |") < page.index("| FCN | P5 | – |")
    with open("results.csv") as file:
        (own,) = (row for row in csv.DictReader(file) if row["set"] == "P5")
    assert (own["paper"], own["mean"], own["at_or_below_paper"]) == ("", "12.2500", "")


@pytest.mark.parametrize(
    ("errors", "reached"), [((0.7, 0.7, 0.7), True), ((0.69, 0.7, 0.71), True), ((0.70, 0.71, 0.70), False)]
)
def test_a_mean_that_is_the_papers_value(table1, errors, reached):
    assert table1.reached(table1.statistics.mean(errors), 0.7) is reached


def test_a_page_that_is_not_there_yet(table1):
    write_result(table1, "FCN", None, "R", 0, 1.5)
    assert render(table1) == 0
    assert "| FCN | 2.1 / **1.50** (1) |" in Path("page.md").read_text()


# --- pictures -----------------------------------------------------------------------------------------------------


def test_a_run_with_a_transformer_leaves_pictures_and_those_of_the_docs_are_copied(table1, here, capsys):
    command = ["--model", "ST-CNN", "--transform", "affine", "--data", "R", "--seeds", "0", *SMALL]
    assert here(command) == 0
    folder = Path("runs/table1/modern-ST-CNN-affine-R-0-quick")
    pictures = {"before_and_after.png", "mean_images.png", "warp.gif"}
    assert {path.name for path in folder.iterdir()} - pictures == {
        *("lock", "log.txt", "model.safetensors", "result.json", "settings.json", "status.json", "watch.npz"),
    }
    for name in pictures:
        assert (folder / name).read_bytes()[:4] in (b"\x89PNG", b"GIF8")
    watch = table1.viz.Watch.read(folder / "watch.npz")
    assert watch.images.shape[1:] == (5, 28, 28)
    assert watch.moments["step"] == list(range(17))
    assert watch.means["step"][-1] == 16
    np.testing.assert_array_equal(watch.moments["warped"][0], watch.images)  # it begins with the identity
    assert (watch.moments["warped"][-1] != watch.images).any()

    (folder / "warp.gif").unlink()  # as if it had been stopped while it drew
    Path("runs/table1/results/modern-ST-CNN-affine-R-0-quick.json").unlink()
    assert here(command) == 0
    assert (folder / "warp.gif").exists()

    folder.rename("runs/table1/modern-ST-CNN-affine-R-0")  # quick runs are not for the docs
    write_result(table1, "ST-CNN", "affine", "R", 0, 0.7)
    capsys.readouterr()
    assert render(table1) == 0
    assert capsys.readouterr().out.endswith("3 pictures: images/table1\n")
    assert {path.name for path in Path("images/table1").iterdir()} == {f"affine-R-{name}" for name in pictures}
    copy = Path("images/table1/affine-R-warp.gif")
    assert copy.read_bytes() == Path("runs/table1/modern-ST-CNN-affine-R-0/warp.gif").read_bytes()


def test_a_run_that_was_stopped_is_watched_to_its_end(table1, tmp_path, monkeypatch):
    run = run_of(table1, "modern", "ST-FCN", **table1.QUICK)
    run = table1.dataclasses.replace(run, digits="strokes", quick=True, seed=0)
    monkeypatch.setattr(table1, "draw", lambda *arguments: None)
    table1.Training(run, tmp_path / "one", 1).finish(tmp_path)
    stopped = table1.Training(run, tmp_path / "two", 1)
    with monkeypatch.context() as patch:
        patch.setattr(table1, "SECONDS_PER_STATUS", 0)
        patch.setattr(stopped, "raise_if_stopped", lambda: stop_at(table1, stopped, 11))
        with pytest.raises(table1.training.Interrupted):
            stopped.finish(tmp_path)
    assert table1.viz.Watch.read(tmp_path / "two/watch.npz").moments["step"] == list(range(12))
    table1.Training(run, tmp_path / "two", 1).finish(tmp_path)
    one, two = (np.load(tmp_path / folder / "watch.npz") for folder in ("one", "two"))
    with one, two:
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name], name)


def stop_at(table1, training, step: int) -> None:
    if hasattr(training, "trainer") and training.steps() == step:
        raise table1.training.Interrupted


def test_only_seed_0_of_networks_with_a_transformer_is_watched(table1, tmp_path, monkeypatch):
    monkeypatch.setattr(table1.viz.Watch, "record", lambda *arguments: pytest.fail("recorded"))
    run = run_of(table1, "modern", "ST-FCN", **table1.QUICK)
    run = table1.dataclasses.replace(run, digits="strokes", quick=True, seed=1)
    table1.Training(run, tmp_path / "one", 1).finish(tmp_path)
    assert not (tmp_path / "one/watch.npz").exists()


def test_tables_that_cannot_be_made(table1, capsys):
    assert render(table1) == 2
    assert "results has no finished run on MNIST" in capsys.readouterr().err
    other = Path("results/other.json")
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text('{"quick": false}')
    assert render(table1) == 2
    assert "other.json is not the result of a run" in capsys.readouterr().err
    other.unlink()
    write_result(table1, "FCN", None, "R", 0, 1.5)
    Path("page.md").write_text("no markers")
    assert render(table1) == 2
    assert "page.md has no lines" in capsys.readouterr().err
    recipe = {**table1.dataclasses.asdict(table1.RECIPES["modern"]), "lr": 7.0}
    write_result(table1, "FCN", None, "R", 1, 1.5, recipe=recipe)
    assert render(table1) == 2
    assert "runs of FCN on R have lr 0.002, not 7.0: they make no mean" in capsys.readouterr().err
    write_result(table1, "FCN", None, "R", 1, 1.5, test_images_sha256="of other images")
    assert render(table1) == 2
    assert "runs of FCN on R had other test images: they make no mean" in capsys.readouterr().err
    Path("results/broken.json").write_text("{")
    assert render(table1) == 2
    assert "broken.json is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ("[" * 100_000, "is no JSON"),
        ('{"name": "\\ud800"}', "is no JSON"),
        ("{}", "is not the result of a run"),
        ({"recipe": None}, "is not the result of a run"),
        ({"test_error_percent": "low"}, "is not the result of a run"),
        ({"wall_seconds": float("nan")}, "is not the result of a run"),
        ({"test_error_percent": True}, "is not the result of a run"),
        ({"test_error_percent": 1e30}, "is not the result of a run"),
        ({"epochs": 10**400}, "is not the result of a run"),
        ({"sessions": None}, "is not the result of a run"),
        ({"sessions": [1]}, "is not the result of a run"),
        ({"recipe_name": "another"}, "is not the result of a run"),
    ],
    ids=str,
)
def test_a_result_that_is_damaged(table1, capsys, content, message):
    write_result(table1, "FCN", None, "R", 0, 1.5, **(content if isinstance(content, dict) else {}))
    (path,) = Path("results").iterdir()
    if isinstance(content, str):
        path.write_text(content)
    assert render(table1) == 2
    assert message in capsys.readouterr().err


def test_a_status_or_settings_that_are_damaged(table1, capsys):
    (task,) = table1.plan(table1.parse(FCN))
    task.folder.mkdir(parents=True)
    for content in ("[]", "{", "{}", '{"state": []}'):
        (task.folder / "status.json").write_text(content)
        task.look()
        assert isinstance(task.state, str)
    for content in ("{}", '{"recipe": 5}'):
        (task.folder / "settings.json").write_text(content)
        assert table1.main(FCN) == 2
        assert "settings.json is of a run with no recipe" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(table1, capsys):
    Path("file").write_text("in the way")
    command = worker_command(table1, "--out", "out")[2:]
    command[command.index("--one") + 1] = str(Path("file/run").absolute())
    assert table1.main(command) == 1
    err = capsys.readouterr().err
    assert err.startswith("reproduce_table1: [Errno 20] Not a directory")
    assert err.count("\n") == 1


def test_the_live_table(table1):
    options = table1.parse(["--model", "FCN,ST-CNN", "--transform", "tps", "--data", "R,E", "--seeds", "0,1"])
    tasks = table1.plan(options)
    first, *_, last = tasks
    first.state, first.epoch, first.error = "finished", 40, 1.25
    last.state, last.epoch, last.error, last.seconds_left = "training", 7, 1.05, 1234.0
    program = table1.Program(tasks, options)
    console = table1.Console(width=100, record=True, file=io.StringIO())
    console.print(program.table())
    text = console.export_text()
    assert "1.25" in text
    assert "1 of 2" in text
    assert "seed 1: 7/40, 21 min" in text
    assert "1 of 8 runs finished" in text
    assert "ST-CNN tps" in text
    assert "waiting" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.4, "5 s"), (99.0, "99 s"), (119.0, "2 min"), (5000.0, "83 min"), (9000.0, "2.5 h")]
)
def test_durations(table1, seconds, text):
    assert table1.short(seconds) == text


# --- the command line ---------------------------------------------------------------------------------------------


def test_which_runs(table1):
    def names(*arguments):
        return [task.run.name for task in table1.plan(table1.parse(list(arguments)))]

    assert len(names("--all")) == 8 * 5
    assert len(names("--all", "--seeds", "0,1", "--seeds", "2,1")) == 3 * 8 * 5
    assert names("--model", "CNN,ST-FCN", "--transform", "tps", "--data", "TC", "--data", "R", "--recipe", "paper") == [
        *("paper-CNN-TC-0", "paper-CNN-R-0", "paper-ST-FCN-tps-TC-0", "paper-ST-FCN-tps-R-0"),
    ]
    assert len(names("--model", "ST-CNN")) == 3 * 5
    assert names("--all", "--transform", "tps", "--data", "R") == [
        *("modern-FCN-R-0", "modern-CNN-R-0", "modern-ST-FCN-tps-R-0", "modern-ST-CNN-tps-R-0"),
    ]
    assert names("--model", "FCN", "--data", "P,P5") == ["modern-FCN-P-0", "modern-FCN-P5-0"]
    assert not any("P5" in name for name in names("--all"))


def test_numbers_of_the_recipe(table1):
    options = table1.parse([*FCN, "--set", "lr=0.5", "--set", "batch_norm=False", "--budget", "9", "--set", "epochs=5"])
    (task,) = table1.plan(options)
    assert (task.run.recipe.lr, task.run.recipe.batch_norm, task.run.recipe.epochs) == (0.5, False, 9)
    (task,) = table1.plan(table1.parse([*FCN, "--set", "batch_size=16"]))
    assert (task.run.recipe.batch_size, task.run.recipe.epochs) == (16, 2)  # the rest is that of --quick


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which networks? --all, or --model and a list"),
        (["--all", "--model", "CNN"], "--all has all networks; leave out --model"),
        (["--model", "MLP"], "argument --model: expected some of FCN, CNN, ST-FCN, ST-CNN, got 'MLP'"),
        (["--model", "CNN", "--data", "R,X"], "argument --data: expected some of R, RTS, P, E, TC, P5, got 'X'"),
        (["--all", "--transform", "shear"], "argument --transform: expected some of affine, projective, tps"),
        (["--all", "--seeds", "0,-1"], "argument --seeds: expected integers of at least 0, such as 0,1,2, got '0,-1'"),
        (["--all", "--seeds", "a"], "argument --seeds: expected integers of at least 0, such as 0,1,2, got 'a'"),
        (["--all", "--jobs", "0"], "argument --jobs: expected an integer of at least 1, got '0'"),
        (["--all", "--budget", "many"], "argument --budget: expected an integer of at least 1, got 'many'"),
        (["--all", "--set", "speed=3"], "argument --set: expected one of epochs, batch_size"),
        (["--all", "--set", "optimizer=lion"], "expected optimizer to be one of sgd, adam, adamw, got 'lion'"),
        (["--all", "--set", "lr=fast"], "argument --set: expected lr to be of type float, got 'fast'"),
        (["--all", "--set", "batch_norm=1"], "expected batch_norm to be of type bool, got '1'"),
        (["--all", "--recipe", "fast"], "argument --recipe"),
    ],
)
def test_what_is_not_understood(table1, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as caught:
        table1.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_data_that_is_not_there(table1, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert table1.main(["--model", "FCN", "--data", "R", "--data-dir", "empty"]) == 2
    assert "empty" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["empty"]
