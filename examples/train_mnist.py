"""Train a Spatial Transformer Network on MNIST and watch it learn to straighten digits.

    python examples/train_mnist.py                     # the default recipe
    python examples/train_mnist.py --quick             # less than a minute, to see everything once
    python examples/train_mnist.py --resume runs/...   # go on where a run stopped
    python examples/train_mnist.py --device gpu        # on an NVIDIA GPU, with CuPy: pip install "ministn[gpu-cuda12]"

A run leaves a folder with its settings, a table of metrics, a checkpoint, the weights and pictures; `python -m ministn
report` makes one page of it, with an animation of what watch.npz has kept. The training loop itself is
`ministn.training.Trainer`; this file chooses what is trained and shows how it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import ministn
import ministn.functional as F
from ministn import backend, data, optim, random, records, training, viz
from ministn.models import MnistCNN, MnistSTN


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int
    batch_size: int
    optimizer: str  # a name in OPTIMIZERS
    lr: float  # of the classifier
    localisation_lr: float = 1.0  # times lr, for the localisation network
    weight_decay: float = 0.0
    dropout: float = 0.5
    warmup_epochs: float = 0.0  # the learning rate rises in a line ...
    cosine: bool = False  # ... and then falls along half a cosine to 0
    shift: int = 0  # each training digit moves by up to this many pixels, anew in each epoch


RECIPES = {
    "default": Recipe(
        epochs=12,
        batch_size=128,
        optimizer="adamw",
        lr=4e-3,
        localisation_lr=0.3,
        weight_decay=0.01,
        dropout=0.1,
        warmup_epochs=0.5,
        cosine=True,
        shift=1,
    ),
    "tutorial": Recipe(epochs=20, batch_size=64, optimizer="sgd", lr=0.01),
}
OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
MODELS = {
    "stn": MnistSTN,
    "stn-coordconv": lambda dropout: MnistSTN(coord_conv=True, dropout=dropout),
    "cnn": MnistCNN,
}
QUICK_TRAIN, QUICK_TEST = 16_384, 2_000  # images that --quick uses
CHECKPOINT = "checkpoint.safetensors"
WATCHED = 200  # test digits whose transformation is recorded ...
RECORDS_PER_EPOCH = 20  # ... this often
CROWD = 50  # test digits of each class whose mean is recorded
MOMENTS = 32  # of the training at which one digit of each class is looked at
WATCH = "watch.npz"
SECONDS_PER_READING = 0.2  # between the losses that the progress bar shows: on the GPU each has to be waited for


class UsageError(Exception):
    """A request that cannot be met; the message is one line."""


# --- what to train ------------------------------------------------------------------------------------------------


def build(
    settings: dict[str, Any], dataset: data.ImageDataset, device: str = "cpu", capture: bool = False
) -> training.Trainer:
    """The network, its data in batches, the optimiser and the schedule that the settings ask for."""
    ministn.manual_seed(settings["seed"])
    recipe = Recipe(**settings["recipe"])
    model = MODELS[settings["model"]](dropout=recipe.dropout).to(device)

    scaling = {"mean": dataset.mean, "std": dataset.std, "device": device}
    train_loader = data.DataLoader(
        dataset.train_images,
        dataset.train_labels,
        recipe.batch_size,
        shuffle=True,
        seed=settings["seed"],
        augment=data.random_shift(recipe.shift) if recipe.shift else None,
        **scaling,
    )
    test_loader = data.DataLoader(dataset.test_images, dataset.test_labels, 500, shuffle=False, **scaling)

    groups = [{"params": list(model.parameters())}]
    if settings["model"] != "cnn":
        groups = [
            {"params": model.classifier_parameters()},
            {"params": model.localisation_parameters(), "lr": recipe.localisation_lr * recipe.lr},
        ]
    optimizer = OPTIMIZERS[recipe.optimizer](groups, lr=recipe.lr, weight_decay=recipe.weight_decay)

    steps = recipe.epochs * len(train_loader)
    warmup = min(max(round(recipe.warmup_epochs * len(train_loader)), 1), steps)
    schedule = None
    if recipe.cosine:
        schedule = optim.LinearWarmup(
            optimizer, warmup, after=optim.CosineAnnealingLR(optimizer, T_max=steps - warmup + 1)
        )
    elif recipe.warmup_epochs:
        schedule = optim.LinearWarmup(optimizer, warmup)
    return training.Trainer(model, optimizer, train_loader, test_loader, schedule, capture)


def compile_kernels(trainer: training.Trainer) -> None:
    """One forward and backward pass that leaves no trace, so that no step of the training waits for the compiler."""
    print("compiling kernels (first run only) ... ", end="", flush=True)
    start, state = time.perf_counter(), random.get_state()
    images, labels = next(trainer.train_loader.batches())
    log_probabilities = trainer.model(images)
    loss = F.nll_loss(log_probabilities, labels)
    loss.backward()
    training.Metrics().add(log_probabilities, labels, loss)
    trainer.optimizer.zero_grad()
    random.set_state(state)
    print(f"{time.perf_counter() - start:.1f} s", flush=True)


# --- the run and its folder ---------------------------------------------------------------------------------------


def make_watch(settings: dict[str, Any], dataset: data.ImageDataset, trainer: training.Trainer) -> viz.Watch:
    """Of the first test digit of each class, and for the means of the next ones."""
    places = [np.flatnonzero(dataset.test_labels == label) for label in np.unique(dataset.test_labels)]
    digits, crowd = [place[0] for place in places], np.concatenate([place[1 : CROWD + 1] for place in places])
    return viz.Watch(
        dataset.test_images[digits, None],
        dataset.test_labels[digits],
        settings["recipe"]["epochs"] * len(trainer.train_loader),
        mean=dataset.mean,
        std=dataset.std,
        crowd=dataset.test_images[crowd],
        crowd_labels=dataset.test_labels[crowd],
        moments=MOMENTS,
    )


class Run:
    """Shows the progress of a training and keeps its folder up to date."""

    def __init__(self, folder: Path, settings: dict[str, Any], dataset: data.ImageDataset, trainer: training.Trainer):
        self.folder, self.settings, self.dataset, self.trainer = folder, settings, dataset, trainer
        self.has_stn = settings["model"] != "cnn"
        self.watched = next(
            data.DataLoader(
                dataset.test_images[:WATCHED],
                dataset.test_labels[:WATCHED],
                WATCHED,
                shuffle=False,
                mean=dataset.mean,
                std=dataset.std,
                device=trainer.train_loader.device,
            ).batches()
        )[0]
        self.theta_rows: list[dict[str, float]] = []
        self.watch = make_watch(settings, dataset, trainer) if self.has_stn else None
        self.bar: tqdm[Any] | None = None
        self.last_reading = 0.0

    def train(self) -> None:
        print(f"\n{'epoch':>5}  train loss  train acc  test loss  test acc  images/s     time", flush=True)
        for row in self.trainer.history:
            self.print_row(row)
        if not self.theta_rows:
            self.record_theta()
        if self.watch is not None:
            self.watch.record(self.trainer)  # before the first step; where a run goes on, that again
        if self.trainer.history:
            self.save()  # a run that goes on in a new folder has all its files there, even if nothing is left to do
        try:
            self.trainer.fit(self.settings["recipe"]["epochs"], self.on_step, self.on_epoch)
        finally:
            self.close_bar()

    def on_step(self, trainer: training.Trainer) -> None:
        if self.bar is None:
            total = len(trainer.train_loader.images)
            title = f"epoch {trainer.epoch + 1}/{self.settings['recipe']['epochs']}"
            done = (trainer.step - 1) * trainer.train_loader.batch_size
            # disable=None: no bar where the output is a file
            self.bar = tqdm(desc=title, total=total, initial=done, unit=" images", leave=False, disable=None)
        self.bar.update(trainer.metrics.images - self.bar.n)
        now = time.perf_counter()
        if not self.bar.disable and now - self.last_reading >= SECONDS_PER_READING:
            self.last_reading, metrics = now, trainer.read_metrics()
            self.bar.set_postfix(loss=f"{metrics.loss:.4f}", accuracy=f"{metrics.accuracy:.2%}", refresh=False)
        if trainer.step % max(len(trainer.train_loader) // RECORDS_PER_EPOCH, 1) == 0:
            self.record_theta()
        if self.watch is not None:
            self.watch.record(trainer)

    def on_epoch(self, trainer: training.Trainer) -> None:
        self.close_bar()
        self.print_row(trainer.history[-1])
        self.save()

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def print_row(self, row: dict[str, float]) -> None:
        print(
            f"{row['epoch']:5d}  {row['train_loss']:10.4f}  {row['train_accuracy']:8.2%}  {row['test_loss']:9.4f}  "
            f"{row['test_accuracy']:7.2%}  {row['images_per_second']:8,.0f}  {row['seconds']:6.1f} s",
            flush=True,
        )

    def record_theta(self) -> None:
        """Mean and spread of what the localisation network answers for the same test digits every time."""
        if not self.has_stn:
            return
        trainer = self.trainer
        trainer.read_metrics()  # the steps that the GPU still makes are the training's time, not this function's
        trainer.model.eval()
        with ministn.no_grad():
            parts = viz.decompose(trainer.model.theta(self.watched).numpy())
        step = trainer.epoch * len(trainer.train_loader) + trainer.step
        row: dict[str, float] = {"step": step, "epoch": step / len(trainer.train_loader)}
        for name, values in parts.items():
            row |= {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}
        self.theta_rows.append(row)

    def begin(self, config: dict[str, Any], saved: bool) -> None:
        """Write config.json and, unless it is `saved`, a checkpoint, so that a run can be resumed from its first moment
        on, and what cannot be written is known before the training."""
        try:
            if not saved:
                self.save_checkpoint()  # before config.json: where that is, there is a run to resume
            records.write_atomically(self.folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        except OSError as error:
            raise UsageError(f"cannot write to the run folder {self.folder}: {error.strerror}") from None

    def save_checkpoint(self) -> None:
        records.save_checkpoint(self.folder / CHECKPOINT, self.trainer, settings=self.settings, theta=self.theta_rows)

    def save(self) -> None:
        """The watch, of which the checkpoint must not be ahead; the checkpoint; and what shows parts of it."""
        if self.watch is not None:
            self.watch.save(self.folder / WATCH, compress=False)
        self.save_checkpoint()
        records.save_weights(self.folder / "model.safetensors", self.trainer.model)
        if self.trainer.history:
            records.write_csv(self.folder / "metrics.csv", self.trainer.history)
        if self.theta_rows:
            records.write_csv(self.folder / "theta.csv", self.theta_rows)

    def resume_command(self) -> str:
        python, script, folder = (
            min(str(path), os.path.relpath(path), key=len) for path in (sys.executable, __file__, self.folder)
        )
        return shlex.join([python, script, "--resume", folder])

    def report(self) -> None:
        """Say how it went, make the pictures and say where they are."""
        print(f"test accuracy {self.trainer.history[-1]['test_accuracy']:.2%} on {self.dataset.name}")
        model, dataset = self.trainer.model, self.dataset
        look = {"mean": dataset.mean, "std": dataset.std, "data": f"{dataset.name}, test digits"}
        pictures = {"learning_curves": viz.learning_curves(self.trainer.history, data=dataset.name)}
        if self.has_stn:
            first_of_each = [np.flatnonzero(dataset.test_labels == digit)[:1] for digit in range(10)]
            pictures["warped_digits"] = viz.warped_digits(
                model, dataset.test_images[np.concatenate(first_of_each)], **look
            )
            pictures["theta_over_training"] = viz.theta_over_training(
                self.theta_rows, data=f"{dataset.name}, the first {self.watched.shape[0]} test digits"
            )
        pictures["hardest_mistakes"] = viz.hardest_mistakes(model, dataset.test_images, dataset.test_labels, **look)
        print("pictures" if self.has_stn else "pictures (of the transformation there are none: cnn has no transformer)")
        for name, figure in pictures.items():
            figure.savefig(self.folder / f"{name}.png")
            print(f"  {self.folder / name}.png")


def open_folder(folder: Path | None, settings: dict[str, Any], lock: contextlib.ExitStack) -> Path:
    """Make and lock the folder of a new run: `folder`, if no run is in it, else a new one below runs/."""
    try:
        folder = folder or new_folder(f"{time.strftime('%Y%m%d-%H%M%S')}-{settings['model']}-{settings['seed']}")
    except OSError as error:
        raise UsageError(f"cannot write to the run folder runs: {error.strerror}") from None
    claim(folder, lock)
    if os.path.exists(folder / CHECKPOINT):
        raise UsageError(f"{folder} holds another run; go on with it by --resume {folder}, or choose another --out")
    if os.path.exists(folder / "config.json"):
        raise UsageError(f"{folder / 'config.json'} is there already; choose another --out, or remove it")
    return folder


def claim(folder: Path, lock: contextlib.ExitStack) -> None:
    """Keep other processes from the folder until `lock` ends."""
    try:
        lock.enter_context(records.locked(folder))
    except OSError as error:
        raise UsageError(f"cannot write to the run folder {folder}: {error.strerror}") from None


def new_folder(name: str) -> Path:
    """Make runs/<name>, or the first of runs/<name>-2, runs/<name>-3 and so on that nobody else has made."""
    Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = Path("runs", name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


# --- the command line ---------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def positive(kind: type) -> Any:
        def convert(text: str) -> Any:
            value = kind(text)
            if not 0 < value < float("inf"):
                raise ValueError
            return value

        convert.__name__ = f"positive {kind.__name__}"  # argparse names it in its error
        return convert

    def path(text: str) -> Path:
        return Path(os.path.expanduser(text))  # the shell leaves the ~ of --out=~/run as it is

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: the gpu if CuPy finds one, else the cpu")
    add("--deterministic", action="store_true", help="on the gpu: kernels that give the same bits in every run")
    add("--model", choices=list(MODELS), help="the network (stn)")
    add("--recipe", choices=list(RECIPES), help="tutorial: as in PyTorch's tutorial on STNs; default: reaches more")
    add(
        "--epochs",
        type=positive(int),
        help="overrides the recipe, like the next three; with --resume: go on to so many",
    )
    add("--batch-size", type=positive(int))
    add("--lr", type=positive(float), help="the classifier's learning rate")
    add("--optimizer", choices=list(OPTIMIZERS))
    add("--seed", type=int, help="weights, order and dropout follow from it (0)")
    add("--threads", type=positive(int), help="of the kernels (all processors)")
    add("--data", choices=["auto", "mnist", "strokes"], help="auto: MNIST, or drawn digits if it cannot be had")
    add("--data-dir", type=path, help="a folder with the MNIST files")
    add("--out", type=path, help="the run folder (runs/<time>-<model>-<seed>)")
    add(
        "--resume",
        type=path,
        metavar="RUN",
        help="a run folder or its checkpoint: go on there, as if never stopped (but with more --epochs a cosine "
        "schedule is stretched, so the learning rate rises again)",
    )
    add("--quick", action="store_true", default=None, help="a part of the data, 1 epoch")
    add(
        "--capture", action="store_true", help="on the gpu: launch forward and backward pass as one recorded CUDA graph"
    )
    options = parser.parse_args(arguments)
    if options.seed is not None and options.seed < 0:
        parser.error(f"argument --seed: expected at least 0, got {options.seed}")
    return options


def choose_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of a new run."""
    name = options.recipe or "default"
    recipe = dataclasses.asdict(RECIPES[name])
    if options.quick:
        recipe["epochs"] = 1
    recipe |= {
        key: value
        for key in ("epochs", "batch_size", "lr", "optimizer")
        if (value := getattr(options, key)) is not None
    }
    return {
        "model": options.model or "stn",
        "recipe_name": name,
        "recipe": recipe,
        "seed": options.seed or 0,
        "threads": options.threads or ministn.get_num_threads(),
        "data": options.data or "auto",
        "data_dir": options.data_dir and os.path.abspath(options.data_dir),
        "quick": bool(options.quick),
    }


def resumed_settings(options: argparse.Namespace, checkpoint: records.Checkpoint) -> dict[str, Any]:
    """The settings of the run that goes on, with what may change (epochs, threads, data folder) changed."""
    settings, template = checkpoint.extra.get("settings"), choose_settings(options)
    if not is_like(settings, template) or not is_table(checkpoint.extra.get("theta")):
        raise UsageError(f"{checkpoint.path} was not made by train_mnist")
    saved = {**settings["recipe"], **settings, "recipe": settings["recipe_name"]}
    for key in ("model", "recipe", "batch_size", "lr", "optimizer", "seed", "data", "quick"):
        asked = getattr(options, key)
        if asked not in (None, "auto", saved[key]):
            option = "--" + key.replace("_", "-")
            raise UsageError(f"{option} {asked} contradicts the run to resume, which has {saved[key]}; leave it out")
    settings["recipe"]["epochs"] = options.epochs or settings["recipe"]["epochs"]
    settings["threads"] = options.threads or settings["threads"]
    settings["data_dir"] = template["data_dir"] or settings["data_dir"]
    return settings


def is_like(value: Any, template: Any) -> bool:
    """Whether it has the same keys, with values of the same types."""
    if isinstance(template, dict):
        return (
            isinstance(value, dict)
            and value.keys() == template.keys()
            and all(is_like(value[key], template[key]) for key in template)
        )
    if template is None or isinstance(template, str):  # a folder that may not be given
        return value is None or isinstance(value, str)
    return type(value) is type(template) or (isinstance(template, float) and type(value) is int)


def is_table(rows: Any) -> bool:
    """Whether they are rows of numbers with the same keys."""
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and row.keys() == rows[0].keys()
        and all(type(value) in (int, float) for value in row.values())
        for row in rows
    )


def load_data(settings: dict[str, Any]) -> data.ImageDataset:
    """The data that the settings name; afterwards they name what was found in place of "auto"."""
    dataset = data.load(settings["data"], settings["data_dir"])
    settings["data"] = "mnist" if dataset.name == "MNIST" else "strokes"
    if settings["quick"]:
        dataset = dataclasses.replace(
            dataset,
            source=f"{dataset.source} (a part, --quick)",
            train_images=dataset.train_images[:QUICK_TRAIN],
            train_labels=dataset.train_labels[:QUICK_TRAIN],
            test_images=dataset.test_images[:QUICK_TEST],
            test_labels=dataset.test_labels[:QUICK_TEST],
        )
    return dataset


def choose_device(asked: str) -> tuple[str, str]:
    """ "cpu" or "gpu" for what was asked for, and what there is to say about it."""
    if asked == "cpu":
        return "cpu", "cpu"
    try:
        return "gpu", f"gpu, {backend.gpu_name()}"
    except ministn.DeviceError as error:
        if asked == "gpu":
            raise UsageError(f"--device gpu: {error}") from None
        no_cupy = isinstance(error.__cause__, ModuleNotFoundError)
        return "cpu", "cpu" if no_cupy else f"cpu ({error})"


def start(options: argparse.Namespace, lock: contextlib.ExitStack) -> Run:
    """Check everything that can be checked, then build the run: new, or from a checkpoint.

    Until `lock` ends no other process has its folder.
    """
    device, described = choose_device(options.device)
    ministn.use_deterministic_kernels(options.deterministic)
    notes, checkpoint, folder, own = [], None, options.out, False
    if options.resume is None:
        settings = choose_settings(options)
    else:
        path = options.resume / CHECKPOINT if os.path.isdir(options.resume) else options.resume
        folder = folder or path.parent
        own = os.path.realpath(path) == os.path.realpath(folder / CHECKPOINT)
        if own and os.path.exists(path):
            claim(folder, lock)  # before it is read: another process may be about to replace it
        checkpoint = records.read_checkpoint(path)
        settings = resumed_settings(options, checkpoint)
    if settings["data"] == "strokes" and options.data_dir is not None:
        raise UsageError("--data-dir: the digits of --data strokes are drawn and need no folder; leave it out")
    try:
        ministn.set_num_threads(settings["threads"])
    except ValueError as error:
        if options.threads is not None:
            raise UsageError(f"--threads: {error}") from None
        was, settings["threads"] = settings["threads"], ministn.get_num_threads()
        notes.append(f"the run had {was} threads, more than there are here; results do not depend on the number")

    dataset = load_data(settings)
    try:
        trainer = build(settings, dataset, device, options.capture)
    except (KeyError, OverflowError, ValueError) as error:
        if checkpoint is None:
            raise
        raise UsageError(f"{checkpoint.path} was not made by train_mnist ({error})") from None
    if checkpoint is not None:
        checkpoint.restore(trainer)
        epochs = settings["recipe"]["epochs"]
        if epochs < trainer.epoch:
            raise UsageError(f"--epochs {epochs}: the run to resume has {trainer.epoch} complete epochs already")
        before, now = checkpoint.info["optimizer_groups"][0]["lr"], trainer.optimizer.param_groups[0]["lr"]
        if now != before:
            notes.append(f"the cosine now ends with epoch {epochs}: the learning rate goes {before:.2g} -> {now:.2g}")
    on_gpu = device == "gpu"  # where alone the two options mean something
    where = {
        "device": described,
        "deterministic": on_gpu and options.deterministic,
        "capture": on_gpu and options.capture,
    }
    folder = folder if own else open_folder(folder, settings, lock)
    run = Run(folder, settings, dataset, trainer)
    if checkpoint is not None:
        run.theta_rows = checkpoint.extra["theta"]
        if run.watch is not None:
            try:
                run.watch.resume(checkpoint.path.with_name(WATCH))
            except (OSError, ValueError) as error:
                notes.append(f"{error}; what the transformer did before is not in the animation")
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    about = {
        "parameters": size,
        "data_name": dataset.name,
        "data_source": dataset.source,
        "train_images": len(dataset.train_images),
        "test_images": len(dataset.test_images),
        **records.code_version(),
        "environment": records.environment(),
    }
    run.begin({**settings, **where, **about}, saved=own)
    print(f"model   {settings['model']}, {size:,} parameters, recipe {settings['recipe_name']}")
    print(f"data    {dataset.describe()}")
    ways = f"{', deterministic kernels' * where['deterministic']}{', steps as a graph' * where['capture']}"
    print(f"device  {described}{ways}")
    print(f"run     {folder}, threads: {settings['threads']}")
    for note in notes:
        print(f"note    {note}")
    return run


def main(arguments: list[str] | None = None) -> int:
    with contextlib.ExitStack() as lock:
        return work(parse(arguments), lock)


def work(options: argparse.Namespace, lock: contextlib.ExitStack) -> int:
    """What the command line asks for; the exit code."""
    try:
        run = start(options, lock)
    except (UsageError, data.DataError, records.CheckpointError, records.BusyError) as error:
        print(f"train_mnist: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the data was fetched, say
        return 130
    try:
        try:
            compile_kernels(run.trainer)
            run.train()
            run.report()
        except training.Interrupted:
            run.save()
            print(f"\ninterrupted and saved; go on with\n  {run.resume_command()}", file=sys.stderr)
            return 130
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on from the last checkpoint with\n  {run.resume_command()}", file=sys.stderr)
        return 130
    except training.NonFiniteLossError as error:
        print(f"train_mnist: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # the disk is full, say
        kept = f"the last checkpoint is kept, go on from it with {run.resume_command()}"
        print(f"train_mnist: {error}; {kept}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
