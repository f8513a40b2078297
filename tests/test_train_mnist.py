"""The front door: what a run leaves behind, how it is stopped and resumed, and what it refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import ministn
from ministn import data, models, records, training, viz

SCRIPT = Path(__file__).parents[1] / "examples" / "train_mnist.py"
STN_PICTURES = {"learning_curves.png", "warped_digits.png", "theta_over_training.png", "hardest_mistakes.png"}
CNN_PICTURES = {"learning_curves.png", "hardest_mistakes.png"}
FILES = {"config.json", "metrics.csv", "checkpoint.safetensors", "model.safetensors", "lock"}


@pytest.fixture(scope="module")
def train_mnist():
    spec = importlib.util.spec_from_file_location("train_mnist", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_mnist"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_mnist"]


@pytest.fixture(autouse=True)
def small_data(monkeypatch, tmp_path):
    """300 drawn digits in place of 60,000, and a folder to run in; on the CPU, whatever there is."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    small = data.strokes.load(train_size=300, test_size=60, seed=0)
    monkeypatch.setattr(data, "load", lambda name, data_dir=None: small)
    monkeypatch.chdir(tmp_path)
    return small


@pytest.fixture
def no_pictures(monkeypatch, train_mnist):
    """They take longer than the training."""
    monkeypatch.setattr(train_mnist.Run, "report", lambda run: None)


@pytest.fixture
def ctrl_c():
    """Python's usual handling of Ctrl-C, which a shell that runs the tests in the background would turn off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def press_ctrl_c_at(monkeypatch, train_mnist, steps: int, ctrl_c) -> None:
    original = train_mnist.Run.on_step
    count = 0

    def on_step(run, trainer):
        nonlocal count
        original(run, trainer)
        count += 1
        if count == steps:
            ctrl_c()

    monkeypatch.setattr(train_mnist.Run, "on_step", on_step)


def read_rows(path: str | Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def refused(train_mnist, capsys, *arguments: str) -> str:
    """The one line that `arguments` are refused with."""
    assert train_mnist.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def rewrite(path: str, to: str, **changes: object) -> None:
    """Save a checkpoint under another name with parts of its JSON changed, or left out where the change is None."""
    checkpoint = records.read_checkpoint(path)
    info = {key: value for key, value in (checkpoint.info | changes).items() if value is not None}
    version = str(records.CHECKPOINT_VERSION)
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": version, "info": json.dumps(info)}
    Path(to).write_bytes(records._safetensors(checkpoint.arrays, metadata))


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "parameters"),
    # From the layers' sizes. Classifier: 260 + 5020 + 16050 + 510; localisation: 400 + 2010 + 2912 + 198, and with
    # coordinates 2 more input channels: 8 * 2 * 49 and 10 * 2 * 25 more weights.
    [("stn", 27_360), ("stn-coordconv", 28_644), ("cnn", 21_840)],
)
def test_a_run_leaves_everything(train_mnist, capsys, tmp_path, small_data, model, parameters):
    out = tmp_path / "new" / "run"
    options = ["--model", model, "--epochs", "2", "--batch-size", "64", "--seed", "5", "--threads", "1"]
    assert train_mnist.main([*options, "--out", str(out)]) == 0
    stdout, stderr = capsys.readouterr()

    pictures = CNN_PICTURES if model == "cnn" else STN_PICTURES
    transformer = set() if model == "cnn" else {"theta.csv", "watch.npz"}
    assert set(os.listdir(out)) == FILES | pictures | transformer
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert f"{model}, {parameters:,} parameters" in stdout
    assert small_data.describe() in stdout
    assert all(str(out / name) in stdout for name in pictures)
    assert ("cnn has no transformer" in stdout) == (model == "cnn")
    assert stderr == ""  # no bar where nobody watches

    rows = read_rows(out / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["test_accuracy"]) <= 1 and float(row["train_loss"]) > 0 for row in rows)

    config = json.loads((out / "config.json").read_text())
    assert (config["model"], config["seed"], config["threads"]) == (model, 5, 1)
    assert (config["recipe"]["epochs"], config["recipe"]["batch_size"]) == (2, 64)
    assert config["data_name"] == small_data.name
    assert config["environment"] == records.environment()
    assert (config["parameters"], config["train_images"], config["test_images"]) == (parameters, 300, 60)
    assert {key: config[key] for key in ("commit", "clean")} == records.code_version()

    built = {"stn": models.MnistSTN(), "stn-coordconv": models.MnistSTN(coord_conv=True), "cnn": models.MnistCNN()}
    records.load_weights(out / "model.safetensors", built[model])
    loader = data.DataLoader(
        small_data.test_images, small_data.test_labels, 500, shuffle=False, mean=small_data.mean, std=small_data.std
    )
    assert training.evaluate(built[model], loader).accuracy == float(rows[-1]["test_accuracy"])


@pytest.mark.usefixtures("no_pictures")
def test_theta_is_recorded_from_the_identity_on(train_mnist):
    train_mnist.main(["--quick", "--batch-size", "100", "--out", "run"])
    rows = read_rows("run/theta.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    start = {name: float(value) for name, value in rows[0].items()}
    assert start["scale_x_mean"] == 1
    assert start["angle_mean"] == start["shift_y_mean"] == start["scale_x_std"] == 0
    assert rows[-1]["scale_x_std"] != "0.0"  # each digit has found its own transformation


@pytest.mark.usefixtures("no_pictures")
def test_the_tutorial_recipe_is_the_tutorials(train_mnist, tmp_path, monkeypatch):
    trainers = []
    monkeypatch.setattr(train_mnist.Run, "train", lambda run: trainers.append(run.trainer))
    train_mnist.main(["--recipe", "tutorial", "--out", str(tmp_path / "run")])
    (trainer,) = trainers
    assert type(trainer.optimizer).__name__ == "SGD"
    for group in trainer.optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0, 0)
    assert trainer.schedule is None
    assert trainer.train_loader.batch_size == 64
    assert trainer.train_loader.augment is None
    assert trainer.model.dropout == 0.5
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["epochs"] == 20


@pytest.mark.usefixtures("no_pictures")
def test_the_same_seed_gives_the_same_weights_and_another_does_not(train_mnist, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train_mnist.main(["--quick", "--seed", seed, "--out", str(tmp_path / name)])
    a, b, c = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in "abc")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a["conv1.weight"], c["conv1.weight"])


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("stop_at", [3, 8])  # 5 steps are an epoch
def test_ctrl_c_saves_and_the_printed_command_goes_on_exactly(
    train_mnist, capsys, tmp_path, monkeypatch, ctrl_c, stop_at
):
    options = ["--epochs", "2", "--batch-size", "64", "--seed", "3"]
    assert train_mnist.main([*options, "--out", "whole"]) == 0

    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, train_mnist, stop_at, ctrl_c)
        assert train_mnist.main([*options, "--out", "stopped run"]) == 130
    command = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert command[0].endswith(Path(sys.executable).name)
    assert Path(command[1]).resolve() == SCRIPT
    assert command[2:] == ["--resume", "stopped run"]
    assert records.read_checkpoint(tmp_path / "stopped run" / "checkpoint.safetensors").info["step"] == 3

    assert train_mnist.main(command[2:]) == 0
    whole, resumed = (safetensors.numpy.load_file(f"{run}/model.safetensors") for run in ("whole", "stopped run"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])  # to the last bit
    assert Path("whole/theta.csv").read_text() == Path("stopped run/theta.csv").read_text()
    whole, resumed = (viz.Watch.read(f"{run}/watch.npz") for run in ("whole", "stopped run"))
    for table in ("moments", "means"):
        for key, values in getattr(whole, table).items():
            np.testing.assert_array_equal(values, getattr(resumed, table)[key])
    columns = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    whole, resumed = (read_rows(f"{run}/metrics.csv") for run in ("whole", "stopped run"))
    assert [[row[c] for c in columns] for row in whole] == [[row[c] for c in columns] for row in resumed]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_can_be_made_longer(train_mnist, capsys):
    train_mnist.main(["--model", "cnn", "--recipe", "tutorial", "--epochs", "1", "--out", "run"])
    assert train_mnist.main(["--resume", "run/checkpoint.safetensors", "--epochs", "2", "--threads", "1"]) == 0
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 3
    assert json.loads(Path("run/config.json").read_text())["recipe"]["epochs"] == 2


@pytest.mark.usefixtures("no_pictures")
def test_a_transformer_is_watched_from_the_beginning_to_the_end_of_a_longer_run(train_mnist, capsys, small_data):
    options = ["--epochs", "1", "--batch-size", "64", "--out", "run"]  # of 5 steps
    train_mnist.main(options)
    first = viz.Watch.read("run/watch.npz")
    assert first.moments["step"] == [0, 1, 2, 3, 4, 5]
    assert first.means["step"] == [0, 5]  # with 0.01, 0.03 and 0.1 of the steps rounded
    places = [np.flatnonzero(small_data.test_labels == digit) for digit in range(10)]
    np.testing.assert_array_equal(first.images[:, 0], small_data.test_images[[place[0] for place in places]])
    np.testing.assert_array_equal(first.images, first.moments["warped"][0])  # it begins with the identity
    crowd = np.concatenate([place[1:51] for place in places])
    expected = viz.class_means(small_data.test_images[crowd] / np.float32(255), small_data.test_labels[crowd])
    np.testing.assert_array_equal(first.distorted[0], expected[0])

    capsys.readouterr()
    train_mnist.main(["--resume", "run", "--epochs", "3", "--out", "longer"])
    assert "watch" not in capsys.readouterr().out
    longer = viz.Watch.read("longer/watch.npz")
    assert longer.moments["step"][:6] == first.moments["step"]
    assert longer.moments["step"][-1] == longer.means["step"][-1] == 15
    np.testing.assert_array_equal(longer.moments["lines"][:6], first.moments["lines"])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"PK", "not the file of a Watch")]
)
def test_a_run_goes_on_without_a_watch_and_says_so(train_mnist, capsys, content, reason):
    options = ["--epochs", "1", "--batch-size", "64", "--out", "run"]
    train_mnist.main(options)
    Path("run/watch.npz").unlink()
    if content is not None:
        Path("run/watch.npz").write_bytes(content)
    capsys.readouterr()
    assert train_mnist.main(["--resume", "run", "--epochs", "2"]) == 0
    (note,) = (line for line in capsys.readouterr().out.splitlines() if "watch.npz" in line)
    assert note.startswith("note    ")
    assert reason in note
    assert note.endswith("what the transformer did before is not in the animation")
    assert viz.Watch.read("run/watch.npz").moments["step"][0] == 5


@pytest.mark.usefixtures("no_pictures")
def test_more_epochs_of_a_cosine_are_announced(train_mnist, capsys):
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    capsys.readouterr()
    assert train_mnist.main(["--resume", "run"]) == 0
    assert "note" not in capsys.readouterr().out  # nothing has changed
    assert train_mnist.main(["--resume", "run", "--epochs", "2", "--data", "auto"]) == 0
    (note,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note"))
    assert "the cosine now ends with epoch 2: the learning rate goes " in note
    before, after = (float(rate) for rate in note.split("goes ")[1].split(" -> "))
    assert before < after


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_more_threads_than_there_are_goes_on_with_what_there_is(train_mnist, capsys):
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    extra = records.read_checkpoint("run/checkpoint.safetensors").extra
    extra["settings"]["threads"] = 1_000_000
    rewrite("run/checkpoint.safetensors", "run/checkpoint.safetensors", extra=extra)
    capsys.readouterr()
    assert "--threads: set_num" in refused(train_mnist, capsys, "--resume", "run", "--threads", "1000000")
    assert train_mnist.main(["--resume", "run"]) == 0
    assert "note    the run had 1000000 threads, more than there are here" in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["threads"] == ministn.get_num_threads()


@pytest.mark.usefixtures("no_pictures")
def test_results_do_not_depend_on_the_number_of_threads(train_mnist):
    """What that note says; on a machine with one processor both runs have one thread."""
    most = str(min(2, ministn.get_num_threads()))
    for threads, out in (("1", "one"), (most, "most")):
        train_mnist.main(["--quick", "--threads", threads, "--out", out])
    one, most = (safetensors.numpy.load_file(f"{out}/model.safetensors") for out in ("one", "most"))
    for name in one:
        np.testing.assert_array_equal(one[name], most[name])


@pytest.mark.parametrize("model", ["cnn", "stn"])
def test_a_diverging_run_ends_with_one_clear_line(train_mnist, capsys, model):
    assert train_mnist.main(["--quick", "--model", model, "--lr", "1e30", "--out", "run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("train_mnist: the loss is nan in epoch 1, step 2")
    assert err.count("\n") == 1


@pytest.fixture
def disk_that_fills(monkeypatch):
    """Room for the first checkpoint, and for no other."""
    save, saved = records.save_checkpoint, []

    def fail(path, *arguments, **extra):
        if saved:
            raise OSError(28, "No space left on device")
        save(path, *arguments, **extra)
        saved.append(path)

    monkeypatch.setattr(records, "save_checkpoint", fail)


KEPT = "train_mnist: [Errno 28] No space left on device; the last checkpoint is kept, go on from it with "


@pytest.mark.usefixtures("no_pictures", "disk_that_fills")
def test_a_full_disk_ends_the_run_with_one_clear_line(train_mnist, capsys):
    assert train_mnist.main(["--quick", "--model", "cnn", "--out", "run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(KEPT)
    assert err.endswith(" --resume run\n")
    assert err.count("\n") == 1
    assert set(os.listdir("run")) == {"config.json", "checkpoint.safetensors", "lock"}


@pytest.mark.usefixtures("no_pictures")
def test_a_disk_that_is_full_from_the_beginning(train_mnist, capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        message = refused(train_mnist, capsys, "--quick", "--model", "cnn", "--out", "run")
    assert message == "train_mnist: cannot write to the run folder run: No space left on device\n"
    assert train_mnist.main(["--quick", "--model", "cnn", "--out", "run"]) == 0  # once there is room


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("where", ["compile_kernels", "first epoch"])
def test_a_run_that_was_killed_before_its_first_epoch_was_complete(train_mnist, monkeypatch, where):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    options = ["--quick", "--model", "cnn"]
    assert train_mnist.main([*options, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        at = (train_mnist, "compile_kernels") if where == "compile_kernels" else (train_mnist.Run, "on_epoch")
        patch.setattr(*at, kill)
        with pytest.raises(Killed):
            train_mnist.main([*options, "--out", "run"])
    assert train_mnist.main(["--resume", "run"]) == 0
    whole, run = (safetensors.numpy.load_file(f"{name}/model.safetensors") for name in ("whole", "run"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], run[name])  # to the last bit


@pytest.mark.usefixtures("disk_that_fills")
def test_ctrl_c_and_then_a_full_disk(train_mnist, capsys, monkeypatch, ctrl_c):
    press_ctrl_c_at(monkeypatch, train_mnist, 1, ctrl_c)
    assert train_mnist.main(["--quick", "--model", "cnn", "--out", "run"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "",
        "stopping after this step (Ctrl-C again: at once)",
        KEPT + shlex.join([*command_of(train_mnist), "--resume", "run"]),
    ]


def command_of(train_mnist) -> list[str]:
    """Python and the script as the printed commands have them."""
    return [min(str(path), os.path.relpath(path), key=len) for path in (sys.executable, train_mnist.__file__)]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_no_gpu_is_said_in_one_line_at_once():
    """In a process of its own: nothing may be printed on the way out either. With CuPy or without, it finds no GPU."""
    command = [sys.executable, str(SCRIPT), "--device", "gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.match("train_mnist: --device gpu: (the GPU needs CuPy|CuPy finds no GPU)", result.stderr)


def test_without_cupy_the_line_says_what_to_install(train_mnist, capsys):
    line = refused(train_mnist, capsys, "--device", "gpu")
    assert line.startswith('train_mnist: --device gpu: the GPU needs CuPy: pip install "ministn[gpu-cuda12]"')


@pytest.fixture
def cupy_without_a_gpu(monkeypatch):
    def get_device_count():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cupy = types.ModuleType("cupy")
    cupy.ndarray = type("ndarray", (), {})
    cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=get_device_count))
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def test_with_cupy_and_no_gpu_the_line_gives_the_reason(train_mnist, capsys, cupy_without_a_gpu):
    assert "CuPy finds no GPU (cudaErrorNoDevice" in refused(train_mnist, capsys, "--device", "gpu")


def test_auto_takes_the_cpu_where_there_is_no_gpu_and_says_so(
    train_mnist, capsys, no_pictures, monkeypatch, cupy_without_a_gpu
):
    assert train_mnist.main(["--quick", "--model", "cnn", "--out", "run", "--device", "auto"]) == 0
    assert "\ndevice  cpu (CuPy finds no GPU (cudaErrorNoDevice" in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["device"].startswith("cpu (")
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert train_mnist.main(["--quick", "--model", "cnn", "--out", "other"]) == 0
    assert "\ndevice  cpu\n" in capsys.readouterr().out
    assert json.loads(Path("other/config.json").read_text())["device"] == "cpu"


def test_an_unwritable_run_folder(train_mnist, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to the run folder" in refused(train_mnist, capsys, "--out", str(tmp_path / "file" / "run"))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_with_another_run(train_mnist, capsys):
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    capsys.readouterr()
    before = Path("run/checkpoint.safetensors").read_bytes()
    assert "run holds another run" in refused(train_mnist, capsys, "--out", "run")
    assert Path("run/checkpoint.safetensors").read_bytes() == before


@pytest.mark.usefixtures("no_pictures")
def test_another_runs_folder_is_not_continued_into(train_mnist, capsys):
    for out in ("a", "b"):
        train_mnist.main(["--quick", "--model", "cnn", "--out", out])
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in Path("b").iterdir()}
    assert "b holds another run" in refused(train_mnist, capsys, "--resume", "a", "--out", "b")
    assert {path.name: path.read_bytes() for path in Path("b").iterdir()} == before
    assert train_mnist.main(["--resume", "a", "--out", str(Path("a").absolute())]) == 0  # its own, by another name
    assert train_mnist.main(["--resume", "a", "--out", "c"]) == 0
    assert set(os.listdir("c")) == FILES


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_in_which_a_run_has_just_begun(train_mnist, capsys):
    Path("run").mkdir()
    Path("run/config.json").write_text("its settings")
    assert "run/config.json is there already" in refused(train_mnist, capsys, "--out", "run")
    assert Path("run/config.json").read_text() == "its settings"


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_another_process_has(train_mnist, capsys):
    with records.locked("run"):
        assert "another program is at run" in refused(train_mnist, capsys, "--quick", "--out", "run")
    assert os.listdir("run") == ["lock"]
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    capsys.readouterr()
    with records.locked("run"):
        assert "another program is at run" in refused(train_mnist, capsys, "--resume", "run", "--epochs", "2")
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("settings", {"model": "cnn"}),
        ("settings", {"recipe": {"epochs": "many"}}),
        ("settings", {"recipe": {"batch_size": 0}}),
        ("settings", {"model": "rnn"}),
        ("theta", 5),
        ("theta", [{"step": None}]),
    ],
)
def test_a_checkpoint_with_settings_that_make_no_sense(train_mnist, capsys, name, value):
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    extra = records.read_checkpoint("run/checkpoint.safetensors").extra
    if name == "theta":
        extra["theta"] = value
    elif value == {"model": "cnn"}:
        extra["settings"] = value  # alone
    else:
        extra["settings"] = {**extra["settings"], **value}
        extra["settings"]["recipe"] = {**train_mnist.dataclasses.asdict(train_mnist.RECIPES["default"])}
        extra["settings"]["recipe"] |= value.get("recipe", {})
    rewrite("run/checkpoint.safetensors", "run/checkpoint.safetensors", extra=extra)
    capsys.readouterr()
    assert "was not made by train_mnist" in refused(train_mnist, capsys, "--resume", "run")


@pytest.mark.usefixtures("no_pictures")
def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(train_mnist, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20300102-030405")
    for _ in range(3):
        assert train_mnist.main(["--quick", "--model", "cnn"]) == 0
    name = "20300102-030405-cnn-0"
    assert sorted(os.listdir("runs")) == [name, f"{name}-2", f"{name}-3"]
    assert all(set(os.listdir(run)) == FILES for run in Path("runs").iterdir())


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_that_does_not_fit_leaves_the_folder_alone(train_mnist, capsys):
    train_mnist.main(["--quick", "--model", "cnn", "--epochs", "2", "--out", "run"])
    capsys.readouterr()
    before = Path("run/config.json").read_bytes()
    message = refused(train_mnist, capsys, "--resume", "run", "--epochs", "1")
    assert "--epochs 1: the run to resume has 2 complete epochs already" in message
    rewrite("run/checkpoint.safetensors", "run/checkpoint.safetensors", history=None)
    assert "'history' is missing" in refused(train_mnist, capsys, "--resume", "run", "--epochs", "9")
    assert Path("run/config.json").read_bytes() == before


@pytest.mark.parametrize("option", ["--out", "--resume"])
def test_a_name_that_is_too_long(train_mnist, capsys, tmp_path, option):
    assert "x" * 300 in refused(train_mnist, capsys, "--quick", option, "x" * 300)
    assert os.listdir(tmp_path) == []


def test_folders_that_may_not_be_entered(train_mnist, capsys, monkeypatch):
    """As it is for a user without rights; the tests may run as root, who has them."""

    def fail(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("stat", "mkdir"):
        monkeypatch.setattr(os, name, fail)
    assert "cannot write to the run folder priv/run: Permission denied" in refused(
        train_mnist, capsys, "--out", "priv/run"
    )
    assert "cannot write to the run folder runs: Permission denied" in refused(train_mnist, capsys)
    assert "there is no such file" in refused(train_mnist, capsys, "--resume", "priv/in")


@pytest.mark.usefixtures("no_pictures")
def test_a_tilde_is_the_home_folder(train_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train_mnist.main(["--quick", "--model", "cnn", "--out=~/run", "--data-dir=~/mnist"]) == 0
    settings = json.loads((tmp_path / "home/run/config.json").read_text())
    assert settings["data_dir"] == str(tmp_path / "home" / "mnist")
    assert train_mnist.main(["--resume=~/run"]) == 0
    assert os.listdir(tmp_path) == ["home"]


def test_drawn_digits_need_no_folder(train_mnist, capsys):
    assert "--data-dir: the digits" in refused(train_mnist, capsys, "--data", "strokes", "--data-dir", "x")


def test_data_that_is_not_there(train_mnist, capsys, tmp_path, monkeypatch):
    def fail(name, data_dir=None):
        raise data.DataError("MNIST: the file train-images-idx3-ubyte is truncated")

    monkeypatch.setattr(data, "load", fail)
    assert "is truncated" in refused(train_mnist, capsys, "--data", "mnist")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "stn"],
        ["--recipe", "tutorial"],
        ["--batch-size", "32"],
        ["--lr", "0.5"],
        ["--optimizer", "sgd"],
        ["--seed", "1"],
        ["--data", "mnist"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_options_that_contradict_the_run_to_resume(train_mnist, capsys, arguments):
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    message = refused(train_mnist, capsys, "--resume", "run", *arguments)
    assert f"{' '.join(arguments)} contradicts the run to resume" in message
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no such file"), (b"short", "truncated or no safetensors file"), ("weights", "not a ministn")],
    ids=["missing", "damaged", "weights alone"],
)
def test_a_checkpoint_that_is_none(train_mnist, capsys, tmp_path, content, message):
    path = tmp_path / "c.safetensors"
    if content == "weights":
        records.save_weights(path, models.MnistCNN())
    elif content is not None:
        path.write_bytes(content)
    before = os.listdir(tmp_path)
    assert message in refused(train_mnist, capsys, "--resume", str(path))
    assert os.listdir(tmp_path) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_from_other_code(train_mnist, capsys):
    """A checkpoint of ministn, but not of this program."""
    train_mnist.main(["--quick", "--model", "cnn", "--out", "run"])
    extra = records.read_checkpoint("run/checkpoint.safetensors").extra
    settings = extra["settings"]
    capsys.readouterr()
    for other in (
        {},
        {"settings": settings},
        {**extra, "settings": 3},
        {**extra, "settings": {**settings, "recipe": None}},
        {**extra, "settings": {key: value for key, value in settings.items() if key != "recipe"}},
    ):
        rewrite("run/checkpoint.safetensors", "other", extra=other)
        assert "not made by train_mnist" in refused(train_mnist, capsys, "--resume", "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "argument --batch-size"),
        (["--batch-size", "many"], "argument --batch-size"),
        (["--epochs", "-1"], "argument --epochs"),
        (["--lr", "nan"], "argument --lr"),
        (["--lr", "inf"], "argument --lr"),
        (["--seed", "-1"], "argument --seed"),
        (["--model", "vgg"], "argument --model"),
    ],
)
def test_numbers_out_of_range(train_mnist, capsys, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as caught:
        train_mnist.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_more_threads_than_there_are(train_mnist, capsys):
    assert "--threads: set_num_threads: expected 1 to" in refused(train_mnist, capsys, "--threads", "1000000")
