"""Reproduce Table 1 of the Spatial Transformer paper: every network on every kind of distorted MNIST.

    python examples/reproduce_table1.py --model ST-CNN --transform affine --data R       # one cell of the table
    python examples/reproduce_table1.py --all --seeds 0,1,2 --jobs 2                     # all of it, two at a time
    python examples/reproduce_table1.py --all --recipe paper                             # as in 2015: weeks on a CPU
    python examples/reproduce_table1.py --all --quick                                    # minutes, to see it work
    python examples/reproduce_table1.py --render                                         # tables of what is finished

A run is one cell with one seed. It has a folder in --out with its checkpoint, weights and log, and when it is done a
file in --results with everything that is known about it; a network with a transformer and seed 0 leaves pictures of how
it learned in the folder, too. Start the same command again after Ctrl-C, a crash or a power cut: what is finished is
skipped, what is not goes on from its last checkpoint, to the same bits. Several of these programs may share the
folders, also from several machines; each run is taken by one of them.

Where the runs are computed is up to an executor, anything with the interface of `concurrent.futures.Executor`: by
default --jobs processes of this machine. --executor names another one, as module:callable. With Dask, in a file
cluster.py in the current folder:

    from dask.distributed import Client
    def dask():
        return Client("tcp://scheduler:8786").get_executor()   # workers started with --nthreads 1

    python examples/reproduce_table1.py --all --executor cluster:dask --threads 8

and with MPI, nine processes of which eight work:

    mpiexec -n 9 python -m mpi4py.futures examples/reproduce_table1.py --all \
        --executor mpi4py.futures:MPIPoolExecutor --threads 8

The workers must see the same folders, and have Python and this file under the same paths.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

import ministn
import ministn.functional as F
from ministn import data, optim, random, records, training, viz
from ministn.models import table1_model
from ministn.records import BusyError, locked

# --- the paper ----------------------------------------------------------------------------------------------------

SETS = ("R", "RTS", "P", "E", "TC")
OWN_SETS = ("P5",)  # for which the paper has no value; only on request
ALL_SETS = SETS + OWN_SETS
NETWORKS = [
    ("FCN", None),
    ("CNN", None),
    *((model, transform) for model in ("ST-FCN", "ST-CNN") for transform in ("affine", "projective", "tps")),
]
MODELS = ("FCN", "CNN", "ST-FCN", "ST-CNN")
TRANSFORMS = ("affine", "projective", "tps")
# Test errors in %: Jaderberg, Simonyan, Zisserman, Kavukcuoglu (2015), "Spatial transformer networks",
# arXiv:1506.02025, Table 1; those on TC from the text of section 4.1, which does not say with which transformation.
_TABLE1 = {
    ("FCN", None): (2.1, 5.2, 3.1, 3.2, 13.2),
    ("CNN", None): (1.2, 0.8, 1.5, 1.4, 3.5),
    ("ST-FCN", "affine"): (1.2, 0.8, 1.5, 2.7, 2.0),
    ("ST-FCN", "projective"): (1.3, 0.9, 1.4, 2.6, 2.0),
    ("ST-FCN", "tps"): (1.1, 0.8, 1.4, 2.4, 2.0),
    ("ST-CNN", "affine"): (0.7, 0.5, 0.8, 1.2, 1.7),
    ("ST-CNN", "projective"): (0.8, 0.6, 0.8, 1.3, 1.7),
    ("ST-CNN", "tps"): (0.7, 0.5, 0.8, 1.1, 1.7),
}
PAPER = {(*network, name): error for network, row in _TABLE1.items() for name, error in zip(SETS, row, strict=True)}


# --- how to train -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to train. What is not said is off."""

    epochs: int
    batch_size: int
    optimizer: str  # a name in OPTIMIZERS
    lr: float  # of the classifier
    localisation_lr: float = 1.0  # times lr, for the localisation network
    momentum: float = 0.0  # of SGD
    weight_decay: float = 0.0
    schedule: str = "constant"  # a name in SCHEDULES; over all epochs, however many they are
    warmup_epochs: float = 0.0  # before it the learning rate rises in a line
    drop_last: bool = False  # leave out the rest of an epoch that fills no batch
    dropout: float = 0.0  # before the classifier's last layer
    batch_norm: bool = False
    localisation_batch_norm: bool = False
    label_smoothing: float = 0.0
    average_decay: float = 0.0  # of the running mean of the weights, which is what is tested; 0: there is none
    parameters: int = 400_000  # at most so many, in all layers together
    width_multiple: int = 1  # the layers' width is a multiple of this
    first_filters: int = 0  # of the first convolution; 0: as many as the second has
    pixel_mean: float = 0.0  # (v - mean) / std for a pixel v from 0 to 1; with mean 0 the background stays 0, which is
    pixel_std: float = 1.0  # also what a transformer reads outside the image


RECIPES = {
    # Section A.4: 150,000 iterations with batches of 256 are 641 epochs of 234 batches.
    "paper": Recipe(epochs=641, batch_size=256, optimizer="sgd", lr=0.01, schedule="thirds", drop_last=True),
    "modern": Recipe(
        epochs=24,
        batch_size=128,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=0.5,
        drop_last=True,
        batch_norm=True,
        localisation_batch_norm=True,
        label_smoothing=0.1,  # without it turns are hardly undone: benchmarks/undo_rotation.py
        first_filters=32,
    ),
}
# What a recipe does otherwise for some cells: the key names a model, a transform, a set, or several of them, and later
# entries win. The modern recipe's epochs are what two cores have time for: an epoch of the dense networks takes
# seconds, one of the plain CNN on TC takes minutes.
OVERRIDES: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {
    "paper": {},
    "modern": {
        ("FCN",): {"epochs": 60},
        ("ST-FCN",): {"epochs": 60},
        ("CNN", "RTS"): {"epochs": 10},
        ("ST-FCN", "RTS"): {"epochs": 150, "dropout": 0.2},
        ("ST-CNN", "RTS"): {"dropout": 0.25},
        ("ST-CNN", "affine", "RTS"): {"epochs": 48},
        ("ST-CNN", "projective", "RTS"): {"epochs": 48},
        ("CNN", "TC"): {"epochs": 8},
        ("ST-FCN", "TC"): {"epochs": 200},
    },
}
OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
SCHEDULES = {
    "constant": lambda optimizer, steps: None,
    "thirds": lambda optimizer, steps: optim.StepLR(optimizer, -(-steps // 3), gamma=0.1),
    "cosine": lambda optimizer, steps: optim.CosineAnnealingLR(optimizer, T_max=steps),
}
CHECKPOINT, WATCH, ANIMATION = "checkpoint.safetensors", "watch.npz", "warp.gif"
TEST_SEED = 2015  # the test images are distorted once, alike for all runs
QUICK = {"epochs": 2, "batch_size": 64, "parameters": 130_000}  # what --quick does ...
QUICK_TRAIN, QUICK_TEST = 512, 200  # ... and with how many images
SECONDS_PER_STATUS = 1.0  # between two looks of a run at what it was told, and of the program at how far runs are
SECONDS_PER_CHECKPOINT = 300.0  # within an epoch; there is one after each epoch too
FINISHED, FAILED, USAGE, BUSY, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes


class UsageError(Exception):
    """A request that cannot be met; the message is one line."""


@dataclass(frozen=True)
class Run:
    """One cell of the table with one seed, and how it is trained."""

    model: str
    transform: str | None
    data: str
    seed: int
    recipe_name: str
    recipe: Recipe
    digits: str = "mnist"
    quick: bool = False

    @property
    def cell(self) -> tuple[str, str | None, str]:
        return self.model, self.transform, self.data

    @property
    def name(self) -> str:
        parts = (self.recipe_name, self.model, self.transform, self.data, self.seed, "quick" if self.quick else None)
        return "-".join(str(part) for part in parts if part is not None)

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Run:
        return cls(**{**settings, "recipe": Recipe(**settings["recipe"])})


def recipe_for(name: str, model: str, data_name: str, changes: dict[str, Any], transform: str | None = None) -> Recipe:
    """The recipe `name` for one cell, with `changes` on top."""
    recipe = RECIPES[name]
    for key, override in OVERRIDES[name].items():
        if set(key) <= {model, transform, data_name}:
            recipe = dataclasses.replace(recipe, **override)
    return dataclasses.replace(recipe, **changes)


# --- one run ------------------------------------------------------------------------------------------------------


def load_digits(digits: str, data_dir: Path | None, quick: bool) -> data.ImageDataset:
    if quick and digits == "strokes":
        return data.strokes.load(train_size=QUICK_TRAIN, test_size=QUICK_TEST, seed=0)
    dataset = data.load(digits, data_dir)
    if quick:
        dataset = dataclasses.replace(
            dataset,
            train_images=dataset.train_images[:QUICK_TRAIN],
            train_labels=dataset.train_labels[:QUICK_TRAIN],
            test_images=dataset.test_images[:QUICK_TEST],
            test_labels=dataset.test_labels[:QUICK_TEST],
        )
    return dataset


def build(run: Run, dataset: data.ImageDataset, device: str = "cpu", capture: bool = False) -> training.Trainer:
    """The network, distorted digits in batches, the optimiser and the schedule of a run."""
    ministn.manual_seed(run.seed)
    recipe = run.recipe
    distortion = data.distortions.get(run.data, dataset.train_images)
    model = table1_model(
        run.model,
        run.transform,
        distortion.canvas,
        recipe.parameters,
        recipe.batch_norm,
        recipe.dropout,
        localisation_batch_norm=recipe.localisation_batch_norm,
        width_multiple=recipe.width_multiple,
        first_filters=recipe.first_filters or None,
    ).to(device)
    loading: dict[str, Any] = {"mean": recipe.pixel_mean, "std": recipe.pixel_std, "device": device}
    train_loader = data.DataLoader(
        dataset.train_images,
        dataset.train_labels,
        recipe.batch_size,
        seed=run.seed,
        drop_last=recipe.drop_last,
        augment=distortion,  # other distortions in each epoch
        **loading,
    )
    test_images = data.distorted_test_set(dataset.test_images, distortion, TEST_SEED)
    test_loader = data.DataLoader(test_images, dataset.test_labels, 500, shuffle=False, **loading)

    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if run.transform is not None:
        groups = [
            {"params": model.classifier_parameters()},
            {"params": model.localisation_parameters(), "lr": recipe.localisation_lr * recipe.lr},
        ]
    options = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[recipe.optimizer](groups, lr=recipe.lr, weight_decay=recipe.weight_decay, **options)

    steps = recipe.epochs * len(train_loader)
    warmup = min(round(recipe.warmup_epochs * len(train_loader)), steps)
    schedule = SCHEDULES[recipe.schedule](optimizer, max(steps - warmup, 1))
    if warmup:
        schedule = optim.LinearWarmup(optimizer, warmup, after=schedule)
    return training.Trainer(
        model,
        optimizer,
        train_loader,
        test_loader,
        schedule,
        capture,
        loss=functools.partial(F.nll_loss, label_smoothing=recipe.label_smoothing),
        average=optim.ExponentialMovingAverage(model, recipe.average_decay) if recipe.average_decay else None,
    )


def compile_kernels(trainer: training.Trainer) -> None:
    """One forward and backward pass that leaves no trace, so that no step of the training waits for the compiler."""
    state = random.get_state()
    weights = {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}
    images, labels = next(trainer.train_loader.batches())
    trainer.loss(trainer.model(images), labels).backward()
    trainer.optimizer.zero_grad()
    trainer.model.load_state_dict(weights)  # batch normalisation has seen the batch
    random.set_state(state)


def make_watch(run: Run, dataset: data.ImageDataset, trainer: training.Trainer) -> viz.Watch:
    """Of a test digit of each class, distorted in five ways, and for the means of fifty more of each."""
    distortion, labels = trainer.train_loader.augment, dataset.test_labels
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    digits, crowd = [place[0] for place in places], np.concatenate([place[1:51] for place in places])
    generator = np.random.default_rng(TEST_SEED)
    images = distortion(np.repeat(dataset.test_images[digits], 5, axis=0), generator)
    return viz.Watch(
        images.reshape(len(digits), 5, *images.shape[1:]),
        labels[digits],
        run.recipe.epochs * len(trainer.train_loader),
        mean=run.recipe.pixel_mean,
        std=run.recipe.pixel_std,
        crowd=distortion(dataset.test_images[crowd], generator),
        crowd_labels=labels[crowd],
        undistorted=dataset.test_images[crowd],
    )


class Training:
    """Trains one run in its folder, which nobody else has meanwhile.

    Files in the folder: checkpoint.safetensors while it is trained; model.safetensors and result.json when it is
    finished; status.json, settings.json and log.txt to look at. With a transformer and seed 0 there are also watch.npz,
    what the transformer did during the training, and the pictures of it.

    Parameters
    ----------
    run : Run
    folder : Path
    threads : int
        Of the kernels; fewer if there are fewer processors.
    data_dir : Path, optional
        With the MNIST files.
    stop : Path, optional
        Once there is such a file, the training saves and ends.
    device : {"cpu", "gpu"}
        Where the network is. A run may go on elsewhere, to other roundings.
    capture : bool
        On the GPU: launch forward and backward pass as one recorded CUDA graph.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        threads: int,
        data_dir: Path | None = None,
        stop: Path | None = None,
        device: str = "cpu",
        capture: bool = False,
    ) -> None:
        self.run, self.folder, self.data_dir, self.stop = run, folder, data_dir, stop
        self.device, self.capture = device, capture
        self.checkpoint, self.result = folder / CHECKPOINT, folder / "result.json"
        with contextlib.suppress(ValueError):  # there are fewer processors; results do not depend on the number
            ministn.set_num_threads(threads)
        self.parent = os.getppid()
        self.cpu_seconds = self.wall_seconds = 0.0  # of the sessions before, up to the checkpoint
        self.sessions: list[dict[str, Any]] = []

    def finish(self, results: Path) -> None:
        """Train until the run is finished and its result is in the folder `results`."""
        with locked(self.folder):
            settings = self.folder / "settings.json"
            if difference := differences(read_json(settings), self.run.settings()):
                raise UsageError(f"{self.folder} has a run with {difference}")
            records.write_atomically(settings, as_json(self.run.settings()))
            if not self.result.exists():
                self.raise_if_stopped()
                self.train()
            if (self.folder / WATCH).exists() and not (self.folder / ANIMATION).exists():  # which is drawn last
                result = json.loads(self.result.read_text())
                draw(viz.Watch.read(self.folder / WATCH), self.run, result["test_error_percent"], self.folder)
            results.mkdir(parents=True, exist_ok=True)
            records.write_atomically(results / f"{self.run.name}.json", self.result.read_bytes())
            self.checkpoint.unlink(missing_ok=True)  # the last, so that a kill in between loses nothing

    def train(self) -> None:
        self.show("loading")
        dataset = load_digits(self.run.digits, self.data_dir, self.run.quick)
        self.trainer = trainer = build(self.run, dataset, self.device, self.capture)
        self.show("compiling")
        compile_kernels(trainer)
        self.watch = make_watch(self.run, dataset, trainer) if self.run.transform and self.run.seed == 0 else None
        if self.checkpoint.exists():
            saved = records.read_checkpoint(self.checkpoint)
            saved.restore(trainer)
            self.cpu_seconds, self.wall_seconds = saved.extra["cpu_seconds"], saved.extra["wall_seconds"]
            self.sessions = saved.extra["sessions"]
            if self.watch is not None and (self.folder / WATCH).exists():
                self.watch.resume(self.folder / WATCH)
        self.sessions.append(session(self.device, self.capture))
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.first_step, self.last_look = self.steps(), 0.0
        self.last_checkpoint = self.started
        self.show("training")
        if self.watch is not None and self.first_step == 0:
            self.watch.record(trainer)  # before the training; what a run that goes on begins with was seen already
        try:
            trainer.fit(self.run.recipe.epochs, self.on_step, self.on_epoch)
        except training.Interrupted:
            self.save()
            raise
        with trainer.average.applied() if trainer.average is not None else contextlib.nullcontext():
            records.save_weights(self.folder / "model.safetensors", trainer.model)
        records.write_atomically(self.result, as_json(self.make_result(dataset)))

    def steps(self) -> int:
        return self.trainer.epoch * len(self.trainer.train_loader) + self.trainer.step

    def on_step(self, trainer: training.Trainer) -> None:
        if self.watch is not None:
            self.watch.record(trainer)
        now = time.perf_counter()
        if now - self.last_look < SECONDS_PER_STATUS:
            return
        self.last_look = now
        self.show("training")
        self.raise_if_stopped()
        if now - self.last_checkpoint > SECONDS_PER_CHECKPOINT:
            self.save()

    def raise_if_stopped(self) -> None:
        gone = os.getppid() != self.parent  # the process that has started this one
        if gone or (self.stop is not None and self.stop.exists()):
            raise training.Interrupted

    def on_epoch(self, trainer: training.Trainer) -> None:
        row = trainer.history[-1]
        print(f"epoch {row['epoch']}: loss {row['train_loss']:.4f}, test error {error_of(row):.2f} %", flush=True)
        self.save()
        self.show("training")

    def save(self) -> None:
        if self.watch is not None:
            self.watch.save(self.folder / WATCH)  # before the checkpoint, which must not be ahead of it
        records.save_checkpoint(self.checkpoint, self.trainer, **self.spent())
        self.last_checkpoint = time.perf_counter()

    def spent(self) -> dict[str, Any]:
        return {
            "cpu_seconds": self.cpu_seconds + time.process_time() - self.cpu_started,
            "wall_seconds": self.wall_seconds + time.perf_counter() - self.started,
            "sessions": self.sessions,
        }

    def show(self, state: str) -> None:
        """Write how far the run is, for whoever looks on."""
        status: dict[str, Any] = {"state": state, "epochs": self.run.recipe.epochs}
        if state == "training":
            trainer = self.trainer
            per_step = (time.perf_counter() - self.started) / max(self.steps() - self.first_step, 1)
            left = self.run.recipe.epochs * len(trainer.train_loader) - self.steps()
            status |= {
                "epoch": trainer.epoch,
                "error": error_of(trainer.history[-1]) if trainer.history else None,
                "seconds_left": left * per_step if self.steps() > self.first_step else None,
            }
        temporary = self.folder / "status.json.part"
        temporary.write_text(json.dumps(status))
        os.replace(temporary, self.folder / "status.json")

    def make_result(self, dataset: data.ImageDataset) -> dict[str, Any]:
        trainer, spent = self.trainer, self.spent()
        last = trainer.history[-1]
        columns = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
        return {
            **self.run.settings(),
            "dataset": dataset.name,
            "train_images": len(trainer.train_loader.images),
            "test_images": len(trainer.test_loader.images),
            "test_seed": TEST_SEED,
            "test_images_sha256": hashlib.sha256(trainer.test_loader.images.tobytes()).hexdigest(),
            "canvas": trainer.model.canvas,
            "width": trainer.model.width,
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "epochs": trainer.epoch,
            "steps": self.steps(),
            "test_error_percent": error_of(last),  # after the last epoch, whichever was the best
            "paper_error_percent": PAPER.get(self.run.cell),  # None on a set of our own
            "cpu_seconds": round(spent["cpu_seconds"], 3),
            "wall_seconds": round(spent["wall_seconds"], 3),
            "sessions": spent["sessions"],  # one, and one more for each time that it went on after a stop
            "history": {name: [rounded(row[name]) for row in trainer.history] for name in columns},
        }


def session(device: str, capture: bool) -> dict[str, Any]:
    """Where and with which code a run is trained from now on."""
    on_gpu = {"gpu": ministn.backend.gpu_name(), "capture": capture} if device == "gpu" else {}
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "threads": ministn.get_num_threads(),
        **on_gpu,
        **records.code_version(),
        "environment": records.environment(),
    }


def error_of(row: dict[str, float]) -> float:
    """Test error in %."""
    return round(100 * (1 - row["test_accuracy"]), 4)


def reached(mean: float, paper: float) -> bool:
    """Whether a mean error is at or below the paper's; to more digits than either has, past a float's rounding."""
    return round(mean, 6) <= paper


def rounded(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def as_json(value: Any) -> bytes:
    """JSON with one key a line, but lists of numbers on one."""
    text = json.dumps(value, indent=1)
    text = re.sub(r"\[\n\s*([^][{}]*?)\n\s*\]", lambda numbers: "[" + re.sub(r",\s+", ", ", numbers[1]) + "]", text)
    return text.encode() + b"\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        json.dumps(content, ensure_ascii=False).encode()  # fails on half a character, which could not be written
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def read_result(path: Path) -> dict[str, Any] | None:
    """What is known of a finished run; None if there is no such file."""
    run = read_json(path)
    if run is None:
        return None
    numbers = ("test_error_percent", "test_images", "epochs", "parameters", "wall_seconds", "cpu_seconds")
    sessions = run.get("sessions")
    sound = (
        all(type(run.get(name)) in (int, float) and abs(run[name]) < 1e300 for name in numbers)  # NaN is not
        and 0 <= run["test_error_percent"] <= 100
        and isinstance(sessions, list)
        and all(isinstance(session, dict) for session in sessions)
        and {field.name for field in dataclasses.fields(Run)} <= run.keys()
        and isinstance(run["recipe"], dict)
        and run["recipe_name"] in list(RECIPES)
        and (run["model"], run["transform"]) in NETWORKS
        and run["data"] in ALL_SETS
    )
    if not sound:
        raise UsageError(f"{path} is not the result of a run")
    return run


def differences(found: dict[str, Any] | None, settings: dict[str, Any]) -> str:
    """In what a run that was found is not as `settings` say, such as "lr 0.01, not 0.02"; "" if in nothing.

    Numbers that recipes have got since then were as their defaults are now.
    """
    if found is None:
        return ""
    if not isinstance(found.get("recipe"), dict):
        return "no recipe"
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    was, now = ({**defaults, **run, **run["recipe"], "recipe": None} for run in (found, settings))
    return ", ".join(f"{name} {was.get(name)}, not {now[name]}" for name in now if was.get(name) != now[name])


def train_one(options: argparse.Namespace) -> int:
    """What a worker does: the program called with --one, whose messages go to the run's log."""
    run, folder = Run.from_settings(json.loads(options.settings)), options.one
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = open(folder / "log.txt", "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        print(f"reproduce_table1: {error}", file=sys.stderr)
        return FAILED
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), run.name, flush=True)
        try:
            threads = options.threads or max(ministn.get_num_threads() // options.jobs, 1)
            where = {"device": options.device, "capture": options.capture}
            Training(run, folder, threads, options.data_dir, options.stop, **where).finish(options.results)
        except BusyError as error:
            print(error)
            return BUSY
        except KeyboardInterrupt:  # training.Interrupted is one, which has saved
            print("interrupted")
            return INTERRUPTED
        except Exception:  # the log has it all, the program shows the last line
            traceback.print_exc()
            return FAILED
    return FINISHED


# --- many runs ----------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """A run of this program: where it is, and how far, as the table shows it."""

    run: Run
    folder: Path
    state: str = "waiting"
    epoch: int = 0
    error: float | None = None
    seconds_left: float | None = None
    future: concurrent.futures.Future[Any] | None = None

    def look(self) -> None:
        """Read how far the run is."""
        try:
            status = read_json(self.folder / "status.json") or {}
        except (OSError, UsageError):
            return
        self.state = str(status.get("state", self.state))
        self.epoch, self.error = status.get("epoch", self.epoch), status.get("error", self.error)
        self.seconds_left = status.get("seconds_left")

    def last_line_of_log(self) -> str:
        try:
            return (self.folder / "log.txt").read_text().strip().rpartition("\n")[2]
        except OSError:
            return "it has not started"


class Program:
    """Hands the runs to the executor and shows how they go."""

    def __init__(self, tasks: list[Task], options: argparse.Namespace) -> None:
        self.tasks, self.options = tasks, options
        self.console = Console()
        self.stop_file = options.out / f".stop-{uuid.uuid4().hex}"  # when it is there, the runs save and end
        self.shown: dict[str, tuple[Any, ...]] = {}

    def work(self) -> int:
        """All tasks that are not finished; the exit code."""
        waiting = [task for task in self.tasks if task.state != "finished"]
        executor = make_executor(self.options)
        try:
            for task in waiting:
                (task.folder / "status.json").unlink(missing_ok=True)
                task.future = executor.submit(subprocess.run, self.command(task), stdin=subprocess.DEVNULL)
            with self.watching() as show:
                while pending := [task.future for task in waiting if not task.future.done()]:
                    concurrent.futures.wait(pending, SECONDS_PER_STATUS, concurrent.futures.FIRST_COMPLETED)
                    self.look(waiting)
                    show()
                self.look(waiting)
                show()
        except KeyboardInterrupt:
            print("\nsaving (Ctrl-C again: at once) ...", file=sys.stderr, flush=True)
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()  # runs on this terminal have seen the Ctrl-C too, others have not
            executor.shutdown(wait=True, cancel_futures=True)
            self.stop_file.unlink()
            print(f"\ninterrupted and saved; go on with\n  {self.resume_command()}", file=sys.stderr)
            return INTERRUPTED
        executor.shutdown(wait=True)
        return self.report(waiting)

    def command(self, task: Task) -> list[str]:
        options = self.options
        command = [sys.executable, os.path.abspath(__file__), "--one", os.path.abspath(task.folder)]
        command += ["--settings", json.dumps(task.run.settings()), "--results", os.path.abspath(options.results)]
        command += ["--jobs", str(options.jobs), "--stop", os.path.abspath(self.stop_file)]
        command += ["--threads", str(options.threads)] if options.threads else []
        command += ["--data-dir", os.path.abspath(options.data_dir)] if options.data_dir else []
        command += ["--device", options.device, *["--capture"] * options.capture]
        return command

    def look(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.state in ("finished", "failed", "elsewhere"):
                continue
            task.look()
            if task.future.done():
                error = task.future.exception()
                code = FAILED if error is not None else task.future.result().returncode
                task.state = {FINISHED: "finished", BUSY: "elsewhere", INTERRUPTED: "stopped"}.get(code, "failed")
                if code == FINISHED:
                    task.epoch = task.run.recipe.epochs
                    task.error = json.loads((task.folder / "result.json").read_text())["test_error_percent"]

    def resume_command(self) -> str:
        python, script = (min(path, os.path.relpath(path), key=len) for path in (sys.executable, __file__))
        arguments = [argument for argument in self.options.arguments if argument != "--force"]
        return shlex.join([python, script, *arguments])

    def report(self, tasks: list[Task]) -> int:
        failed = [task for task in tasks if task.state == "failed"]
        for task in failed:
            error = task.future.exception()
            why = task.last_line_of_log() if error is None else f"{type(error).__name__}: {error}"
            print(f"failed     {task.run.name}: {why}", file=sys.stderr)
        for task in tasks:
            if task.state in ("elsewhere", "stopped"):
                print(f"{task.state:10} {task.run.name}: {task.last_line_of_log()}", file=sys.stderr)
        if all(task.state == "finished" for task in self.tasks):
            print(f"finished: {len(self.tasks)} runs, in {self.options.results}")
        return FAILED if failed else FINISHED

    # --- the table ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def watching(self) -> Iterator[Any]:
        """Within the block, what is given shows how the runs go when called: a table, or lines where nobody sees it."""
        if not self.console.is_terminal:
            yield self.print_changes
            return
        with Live(self.table(), console=self.console, auto_refresh=False) as live:
            yield lambda: live.update(self.table(), refresh=True)

    def print_changes(self) -> None:
        for task in self.tasks:
            news = (task.state, task.epoch)
            if task.state != "waiting" and self.shown.get(task.run.name) != news:
                self.shown[task.run.name] = news
                paper = f"; paper {PAPER[task.run.cell]:.1f} %" if task.run.cell in PAPER else ""
                print(f"{task.run.name:32} {self.describe(task)}{paper}", flush=True)

    def describe(self, task: Task) -> str:
        text = f"{task.state:10} epoch {task.epoch}/{task.run.recipe.epochs}"
        text += "" if task.error is None else f", error {task.error:.2f} %"
        return text + (
            "" if task.seconds_left is None or task.state != "training" else f", {short(task.seconds_left)} left"
        )

    def table(self) -> Table:
        """Table 1 as it fills: the paper's error beside ours, and how far the runs of the cell are."""
        title = "test error in %: paper's, ours"
        table = Table(title=title, caption=self.caption(), show_lines=True, min_width=len(self.caption()))
        names = [name for name in ALL_SETS if any(task.run.data == name for task in self.tasks)]
        for heading in ("network", *names):
            table.add_column(heading)
        for model, transform in NETWORKS:
            row = [[t for t in self.tasks if t.run.cell == (model, transform, name)] for name in names]
            if any(row):
                table.add_row(" ".join(filter(None, (model, transform))), *(self.cell(tasks) for tasks in row))
        return table

    def cell(self, tasks: list[Task]) -> Text:
        if not tasks:
            return Text("")
        paper = PAPER.get(tasks[0].run.cell)
        errors = [task.error for task in tasks if task.error is not None]
        text = Text("" if paper is None else f"{paper:.1f}  ")
        if errors:
            mean = statistics.mean(errors)
            style = ""
            if paper is not None and all(task.state == "finished" for task in tasks):
                style = "bold green" if reached(mean, paper) else "bold red"
            text.append(f"{mean:.2f}", style=style)
        finished = sum(task.state == "finished" for task in tasks)
        at_work = [task for task in tasks if task.state in ("loading", "compiling", "training")]
        for task in at_work:
            left = "" if task.seconds_left is None else f", {short(task.seconds_left)}"
            place = f"{task.epoch}/{task.run.recipe.epochs}" if task.state == "training" else task.state
            text.append(f"\nseed {task.run.seed}: {place}{left}", style="cyan")
        others = {task.state for task in tasks} - {"finished", "loading", "compiling", "training", "waiting"}
        for state in sorted(others):
            text.append(f"\n{state}", style="red")
        if not at_work and not others:
            text.append(f"\n{finished} of {len(tasks)}" if finished else "\nwaiting", style="dim")
        return text

    def caption(self) -> str:
        finished = sum(task.state == "finished" for task in self.tasks)
        return f"{finished} of {len(self.tasks)} runs finished; Ctrl-C saves, the same command goes on"


def short(seconds: float) -> str:
    """A duration such as "40 s", "12 min" or "3.5 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def make_executor(options: argparse.Namespace) -> concurrent.futures.Executor:
    """The one that --executor names; or threads that each wait for a process of their own at a time."""
    if options.executor is None:
        return concurrent.futures.ThreadPoolExecutor(options.jobs)
    module_name, _, attribute = options.executor.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--executor {options.executor}: {error}") from None
    executor = make()
    if not isinstance(executor, concurrent.futures.Executor):
        kind = type(executor).__name__
        raise UsageError(f"--executor {options.executor}: expected a concurrent.futures.Executor from it, got {kind}")
    return executor


def plan(options: argparse.Namespace) -> list[Task]:
    """The runs that the options ask for, with what is known of them: seeds in turn, so that the table fills evenly."""
    networks = [
        (model, transform)
        for model, transform in NETWORKS
        if (options.all or model in options.model) and (transform is None or transform in options.transform)
    ]
    changes = {**(QUICK if options.quick else {}), **dict(options.set)}
    changes |= {"epochs": options.budget} if options.budget else {}
    tasks, conflicts = [], []
    for seed, (model, transform), name in itertools.product(options.seeds, networks, options.data):
        recipe = recipe_for(options.recipe, model, name, changes, transform)
        run = Run(model, transform, name, seed, options.recipe, recipe, options.digits, options.quick)
        task = Task(run, options.out / run.name)
        tasks.append(task)
        result = options.results / f"{run.name}.json"
        if options.force:  # whatever there is, `forget` removes it
            continue
        found = read_result(result)
        for path, was in ((result, found), (task.folder / "settings.json", read_json(task.folder / "settings.json"))):
            if difference := differences(was, run.settings()):
                conflicts.append(f"{path} is of a run with {difference}")
        if not conflicts and found is not None:
            task.state, task.epoch, task.error = "finished", found["epochs"], found["test_error_percent"]
    if conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        raise UsageError(f"{conflicts[0]}{more}; --force trains anew, another --out and --results keep both")
    return tasks


def forget(tasks: list[Task], results: Path) -> None:
    """Remove what there is of the runs, once none of them is another program's."""
    with contextlib.ExitStack() as locks:
        for task in tasks:
            locks.enter_context(locked(task.folder))
        for task in tasks:
            (results / f"{task.run.name}.json").unlink(missing_ok=True)
            for file in ("settings.json", "result.json", CHECKPOINT, WATCH, ANIMATION):
                (task.folder / file).unlink(missing_ok=True)


# --- pictures -----------------------------------------------------------------------------------------------------

# Those that the docs show of ST-CNN, by name: of which transform and set
_STILLS = [*itertools.product(("affine", "tps"), SETS), ("projective", "P")]
SHOWN = {
    "before_and_after.png": _STILLS,
    "mean_images.png": _STILLS,
    "warp.gif": [("affine", "R"), ("affine", "RTS")],
}


def draw(watch: viz.Watch, run: Run, error: float, folder: Path) -> None:
    """All pictures of a run, into its folder."""
    of = f"{run.model} {run.transform} on {run.data}; it misreads {error:.2f} % of the test digits in the end"
    viz.before_and_after(watch, data=of).savefig(folder / "before_and_after.png")
    viz.mean_images(watch, data=of).savefig(folder / "mean_images.png")
    viz.warp_animation(watch, folder / ANIMATION, data=of)


def copy_pictures(runs: Path, recipe: str, pictures: Path) -> str:
    """Copy those that the docs show, of the runs that there are; one line on what was done, "" if nothing was."""
    copied = 0
    for name, cells in SHOWN.items():
        for transform, data_name in cells:
            source = runs / f"{recipe}-ST-CNN-{transform}-{data_name}-0" / name
            if source.exists():
                pictures.mkdir(parents=True, exist_ok=True)
                records.write_atomically(pictures / f"{transform}-{data_name}-{name}", source.read_bytes())
                copied += 1
    return f"{copied} pictures: {pictures}" if copied else ""


# --- what the docs show -------------------------------------------------------------------------------------------


def render(results: Path, page: Path) -> str:
    """Write the tables of all results, as <results>.csv and into `page`; one line on what was done."""
    runs, left_out = [], 0
    for path in sorted(results.glob("*.json")):
        run = read_result(path)
        if run is None:  # removed since
            continue
        if run["quick"] or run["digits"] != "mnist" or run["test_images"] != 10_000:
            left_out += 1
        else:
            runs.append(run)
    if not runs:
        raise UsageError(f"{results} has no finished run on MNIST to make tables of")
    cells = [list(group) for _, group in itertools.groupby(sorted(runs, key=_place), key=_place)]
    rows = [summary(cell) for cell in cells]
    table = results.with_name(f"{results.name}.csv")
    records.write_csv(table, rows)
    text = page.read_text() if page.exists() else f"# Distorted MNIST: results\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise UsageError(f"{page} has no lines {BEGIN} and {END} to write between")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    records.write_atomically(
        page, f"{before}{BEGIN}\n{as_markdown(rows, [cell[0]['recipe'] for cell in cells])}{END}{after}".encode()
    )
    return f"{len(runs)} runs: {table}, {page}" + (
        f" ({left_out} left out: quick, or not of MNIST)" if left_out else ""
    )


BEGIN, END = "<!-- table1: begin, written by examples/reproduce_table1.py --render -->", "<!-- table1: end -->"


def _place(run: dict[str, Any]) -> tuple[Any, ...]:
    """Where the cell stands in the table, by which runs are sorted and grouped."""
    network = NETWORKS.index((run["model"], run["transform"]))
    return list(RECIPES).index(run["recipe_name"]), network, ALL_SETS.index(run["data"])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of one cell, which differ in nothing but the seed."""
    first = runs[0]
    for run in runs:
        if difference := differences({**first, "seed": None}, {key: run[key] for key in SETTINGS} | {"seed": None}):
            raise UsageError(f"runs of {first['model']} on {first['data']} have {difference}: they make no mean")
    if len({run.get("test_images_sha256") for run in runs}) > 1:
        raise UsageError(f"runs of {first['model']} on {first['data']} had other test images: they make no mean")
    errors = [Decimal(str(run["test_error_percent"])) for run in runs]  # so that 0.595 is just that
    on_cpu = [run for run in runs if not any("gpu" in session for session in run["sessions"])]
    mean, paper = statistics.mean(errors), PAPER.get((first["model"], first["transform"], first["data"]))
    return {
        "recipe": first["recipe_name"],
        "network": first["model"],
        "transform": first["transform"] or "",
        "set": first["data"],
        "paper": "" if paper is None else paper,
        "mean": f"{mean:.4f}",
        "spread": f"{statistics.stdev(errors):.4f}" if len(runs) > 1 else "",
        "lowest": f"{min(errors):.2f}",
        "highest": f"{max(errors):.2f}",
        "seeds": len(runs),
        "at_or_below_paper": "" if paper is None else "yes" if reached(float(mean), paper) else "no",
        "parameters": first["parameters"],
        "epochs": first["epochs"],
        "on_gpu": len(runs) - len(on_cpu),
        "cpu_minutes": f"{statistics.mean(run['cpu_seconds'] for run in on_cpu) / 60:.1f}" if on_cpu else "",
    }


SETTINGS = [field.name for field in dataclasses.fields(Run)]


def as_markdown(rows: list[dict[str, Any]], recipes: list[dict[str, Any]]) -> str:
    """For each recipe the table as the paper has it, that of our own sets, each cell with all its figures, and how the
    cells were trained."""
    lines = []
    for name, group in itertools.groupby(zip(rows, recipes, strict=True), key=lambda pair: pair[0]["recipe"]):
        cells, recipes_of_cells = zip(*group, strict=True)
        lines += [f'\n## Recipe "{name}"\n', *_as_in_the_paper(cells), *_with_and_without(cells), *_on_own_sets(cells)]
        lines += _in_full(cells)
        lines += _how_trained(cells, recipes_of_cells)
    return "\n".join(lines) + "\n"


def _as_in_the_paper(rows: Sequence[dict[str, Any]]) -> list[str]:
    rows = [row for row in rows if row["set"] in SETS]
    if not rows:
        return []
    bold = [row["set"] for row in rows if row["at_or_below_paper"] == "yes"]
    return [
        *_by_network(rows, SETS),
        "\nThe paper's error in %, then ours: the mean over seeds ± their standard deviation (number of seeds). "
        f"**Bold**: the mean is at or below the paper's value, as in {len(bold)} of {len(rows)} cells"
        + (f", {bold.count('P')} of them on P, whose corners we had to calibrate.\n" if "P" in bold else ".\n"),
    ]


def _with_and_without(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a transformer gains, where there are networks with one and without: the order for which the paper argues."""
    lines = []
    for model in ("FCN", "CNN"):
        cells = []
        for name in SETS:
            without = [row for row in rows if (row["network"], row["set"]) == (model, name)]
            means = [Decimal(row["mean"]) for row in rows if (row["network"], row["set"]) == (f"ST-{model}", name)]
            shown = " to ".join(dict.fromkeys((_two_digits(min(means)), _two_digits(max(means))))) if means else ""
            cells.append(f"{_two_digits(without[0]['mean'])} → {shown}" if without and means else "")
        if any(cells):
            lines.append(f"| {model} → ST-{model} | {' | '.join(cells)} |")
    if not lines:
        return []
    return [
        f"| error in % | {' | '.join(SETS)} |",
        "|---|" + "---|" * len(SETS),
        *lines,
        "\nWithout a transformer, then with one: the least and the largest of its transforms.\n",
    ]


def _on_own_sets(rows: Sequence[dict[str, Any]]) -> list[str]:
    rows = [row for row in rows if row["set"] in OWN_SETS]
    if not rows:
        return []
    return [
        *_by_network(rows, OWN_SETS),
        "\nOur error in % on sets for which the paper has none; docs/distorted_mnist.md says what they are.\n",
    ]


def _by_network(rows: Sequence[dict[str, Any]], sets: Sequence[str]) -> list[str]:
    cells = {(row["network"], row["transform"], row["set"]): row for row in rows}
    lines = [f"| network | {' | '.join(sets)} |", "|---|" + "---|" * len(sets)]
    for model, transform in NETWORKS:
        row = [cells.get((model, transform or "", name)) for name in sets]
        if found := [cell for cell in row if cell is not None]:
            shown = " | ".join("" if cell is None else _in_short(cell) for cell in row)
            lines.append(f"| {_network(found[0])} | {shown} |")
    return lines


def _in_full(rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = ("set", "paper", "mean", "spread", "lowest", "highest", "seeds", "on_gpu", "parameters", "epochs")
    columns = (*columns, "cpu_minutes")
    lines = [f"| network | {' | '.join(columns).replace('_', ' ')} |", "|---" * (len(columns) + 1) + "|"]
    written = {"parameters": "{:,}".format, "mean": _two_digits, "spread": _two_digits}
    for row in rows:
        values = (written.get(name, str)(row[name]) if row[name] != "" else "–" for name in columns)
        lines.append(f"| {_network(row)} | {' | '.join(values)} |")
    return [*lines, "\nCPU minutes: processor time of a run on the CPU, of all its threads together.\n"]


def _how_trained(rows: Sequence[dict[str, Any]], recipes: Sequence[dict[str, Any]]) -> list[str]:
    """The numbers that most cells share, then those in which others differ."""
    groups: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for row, recipe in zip(rows, recipes, strict=True):
        groups.setdefault(json.dumps(recipe, sort_keys=True), (recipe, []))[1].append(row)
    usual = max(groups.values(), key=lambda group: len(group[1]))[0]
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    lines = [f"Trained with {_numbers(usual, defaults)}; what is not said is off or as in the code."]
    others = [(_numbers(recipe, usual), cells) for recipe, cells in groups.values() if recipe is not usual]
    if others:
        lines += ["Other numbers:\n", *(f"* {_cells(cells)}: {numbers}" for numbers, cells in others)]
    return lines


def _cells(rows: Sequence[dict[str, Any]]) -> str:
    """Such as "FCN on R, RTS; CNN on TC"."""
    sets: dict[str, list[str]] = {}
    for row in rows:
        sets.setdefault(_network(row), []).append(row["set"])
    return "; ".join(f"{network} on {', '.join(names)}" for network, names in sets.items())


def _network(row: dict[str, Any]) -> str:
    return f"{row['network']} {row['transform']}".strip()


def _numbers(recipe: dict[str, Any], usual: dict[str, Any]) -> str:
    """Those that are not as usual, such as "`lr` 0.01, `batch_size` 256"."""
    return ", ".join(f"`{name}` {value}" for name, value in recipe.items() if value != usual.get(name))


def _two_digits(error: str | Decimal) -> str:
    """In %: a test image is a hundredth. What lies in the middle is rounded up, not in our favour."""
    return str(Decimal(error).quantize(Decimal("0.01"), ROUND_HALF_UP))


def _in_short(row: dict[str, Any]) -> str:
    mean = _two_digits(row["mean"])
    mean = f"**{mean}**" if row["at_or_below_paper"] == "yes" else mean
    spread = f" ± {_two_digits(row['spread'])}" if row["spread"] else ""
    paper = f"{row['paper']} / " if row["paper"] != "" else ""
    return f"{paper}{mean}{spread} ({row['seeds']})"


# --- the command line ---------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    def names(choices: tuple[str, ...]) -> Any:
        def convert(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in choices]:
                raise argparse.ArgumentTypeError(f"expected some of {', '.join(choices)}, got {unknown[0]!r}")
            return chosen

        return convert

    def at_least_one(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= 1:
                return value
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")

    def seeds(text: str) -> list[int]:
        with contextlib.suppress(ValueError):
            values = [int(part) for part in text.split(",")]
            if min(values) >= 0:
                return values
        raise argparse.ArgumentTypeError(f"expected integers of at least 0, such as 0,1,2, got {text!r}")

    def path(text: str) -> Path:
        return Path(os.path.expanduser(text))

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    listed: dict[str, Any] = {"action": "extend", "metavar": "A,B"}
    add(
        "--all",
        action="store_true",
        help="all networks, on the sets of --data (and with the transforms of --transform)",
    )
    add("--model", type=names(MODELS), help=f"some of {', '.join(MODELS)}", **listed)
    add(
        "--transform", type=names(TRANSFORMS), help=f"of the ST models: some of {', '.join(TRANSFORMS)} (all)", **listed
    )
    sets = f"some of {', '.join(SETS)} (all), {', '.join(OWN_SETS)} (only if named)"
    add("--data", type=names(ALL_SETS), help=sets, **listed)
    add("--seeds", type=seeds, help="weights, order and distortions follow from it (0)", **listed)
    add("--recipe", choices=list(RECIPES), default="modern", help="how to train (modern)")
    add("--budget", type=at_least_one, metavar="EPOCHS", help="so many, in place of the recipe's; its schedule scales")
    add("--set", type=change, action="append", default=[], metavar="NAME=VALUE", help="another number of the recipe")
    add("--jobs", type=at_least_one, default=1, help="runs at a time (1)")
    add("--threads", type=at_least_one, help="of each run (the processors, shared out among the jobs)")
    add(
        "--device",
        choices=["cpu", "gpu"],
        default="cpu",
        help="where the networks are; distortions are the CPU's (cpu)",
    )
    add(
        "--capture", action="store_true", help="on the gpu: launch forward and backward pass as one recorded CUDA graph"
    )
    add("--executor", metavar="MODULE:CALLABLE", help="gives the executor that the runs are handed to, see above")
    add("--out", type=path, default=Path("runs/table1"), help="the folders of the runs (runs/table1)")
    add("--results", type=path, help="a file for each finished run (results in --out)")
    add("--force", action="store_true", help="train anew what is finished or begun")
    add("--quick", action="store_true", help="a part of the data, few epochs, small networks: to see it work")
    add("--digits", choices=["mnist", "strokes"], default="mnist", help="strokes: digits that the package draws")
    add("--data-dir", type=path, help="a folder with the MNIST files")
    add(
        "--render",
        action="store_true",
        help="write the tables of --results and copy pictures from --out, once all runs are finished",
    )
    add("--page", type=path, help="that --render writes into (the name of --results, with .md)")
    add("--one", type=path, help=argparse.SUPPRESS)  # what a worker is called with: the folder of a run ...
    add("--settings", help=argparse.SUPPRESS)  # ... the run ...
    add("--stop", type=path, help=argparse.SUPPRESS)  # ... and the file that asks it to end
    options = parser.parse_args(arguments)
    options.arguments = arguments
    options.data = list(dict.fromkeys(options.data or SETS))
    options.transform = options.transform or list(TRANSFORMS)
    options.seeds = list(dict.fromkeys(options.seeds or [0]))
    options.results = options.results or options.out / "results"
    options.page = options.page or options.results.with_name(f"{options.results.name}.md")
    if not (options.all or options.model or options.render or options.one):
        parser.error("which networks? --all, or --model and a list")
    if options.all and options.model:
        parser.error("--all has all networks; leave out --model")
    return options


def change(text: str) -> tuple[str, Any]:
    """ "lr=0.01" as ("lr", 0.01), if the recipe has such a number."""
    name, _, value = text.partition("=")
    kinds = {field.name: field.type for field in dataclasses.fields(Recipe)}
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(kinds)}, got {name!r}")
    choices: dict[str, Any] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    if value not in choices.get(name, [value]):
        raise argparse.ArgumentTypeError(f"expected {name} to be one of {', '.join(choices[name])}, got {value!r}")
    try:
        convert = {"int": int, "float": float, "str": str, "bool": {"True": True, "False": False}.__getitem__}
        return name, convert[str(kinds[name])](value)
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"expected {name} to be of type {kinds[name]}, got {value!r}") from None


def main(arguments: list[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.one is not None:
        return train_one(options)
    try:
        code = FINISHED
        if options.device == "gpu" and options.executor is None:  # whose workers may have what this machine has not
            ministn.backend.gpu_name()
        if options.all or options.model:
            tasks = plan(options)
            if any(task.state != "finished" for task in tasks):
                dataset = load_digits(options.digits, options.data_dir, options.quick)  # before many runs miss it
                print(dataset.describe())
            if options.force:  # only now that there is something to train with
                forget(tasks, options.results)
            code = Program(tasks, options).work()
            if options.render and any(task.state != "finished" for task in tasks):
                print("not all runs are finished: nothing rendered", file=sys.stderr)
                options.render = False
        if options.render:
            print(render(options.results, options.page))
            if copied := copy_pictures(options.out, options.recipe, options.page.parent / "images" / "table1"):
                print(copied)
    except (UsageError, BusyError, data.DataError, ministn.DeviceError) as error:
        print(f"reproduce_table1: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"reproduce_table1: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
