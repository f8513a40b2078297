"""Not-so-Clevr, from the CoordConv paper: can a network say where a pixel is, or put one where it is told to?

    python examples/coordconv_not_so_clevr.py --task classification --layer coordconv --split quadrant
    python examples/coordconv_not_so_clevr.py --task regression --layer conv --split uniform --seeds 0,1,2,3,4
    python examples/coordconv_not_so_clevr.py --recipe released   # trained as the paper's code does it
    python examples/coordconv_not_so_clevr.py --quick             # does it run?
    python examples/coordconv_not_so_clevr.py --draw              # table and pictures of the results that are there

The network is shown some places of a canvas and tested at the others: at a quarter of them that is scattered over it,
or at those of one quadrant. A convolution answers alike wherever it looks, so for it the places are hard to tell apart;
a CoordConv is given them. Tasks, networks and what the paper leaves open: `ministn.data.not_so_clevr` and
`ministn.models.not_so_clevr`.

A run is one task, layer, split and seed. It leaves a JSON file in --results; a run that has one is not trained again,
and one that was stopped goes on from its last checkpoint, at most a minute or an epoch before. All of them are in
table.md there. Each task and split has a picture: places to train with and to test with, what the networks answered,
and accuracy against the time that the processor spent on training.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reproduce_table1 import as_json, compile_kernels, rounded
from tqdm import tqdm

import ministn
import ministn.functional as F
from ministn import Tensor, nn, no_grad, optim, records, training
from ministn.data import DataLoader
from ministn.data import not_so_clevr as data
from ministn.models import not_so_clevr, not_so_clevr_model


@dataclass(frozen=True)
class Recipe:
    """How to train: with Adam, whose betas are 0.9 and 0.99 in the paper's code. What is not said is off."""

    epochs: int
    batch_size: int
    lr: float
    l2: float = 0.0  # the loss has l2 times the sum of the squares of the convolutions' weights
    epochs_per_lr: int = 0  # after so many the learning rate falls to a tenth; 0: never
    cosine: bool = False  # the learning rate rises for WARMUP steps, then falls to 0 along a cosine
    scaled: bool = False  # a centre that is given is so from -1 to 1, as a CoordConv's coordinates are; else in pixels
    plain_start: bool = False  # a CoordConv begins as a convolution: its weights of the coordinates are 0
    softmax: bool = False  # over the pixels, in rendering by CoordConv, before the square is painted
    filter_size: int = 3
    multiple: int = 2


# "released": those of the README and of experiment_logs.sh in https://github.com/uber-research/CoordConv, which
# searched over several for each task. (Where the two differ in the number of epochs, the smaller.) "modern": ours, for
# CoordConv; a convolution is trained alike in both.
_DECONVOLUTION = Recipe(epochs=1000, batch_size=16, lr=0.01, l2=0.001, epochs_per_lr=200)
_CONVOLUTION = {
    ("classification", "conv"): _DECONVOLUTION,
    ("rendering", "conv"): _DECONVOLUTION,
    ("regression", "conv"): Recipe(epochs=100, batch_size=256, lr=0.01, l2=1e-5, multiple=1),
}
RECIPES = {
    "released": {
        **_CONVOLUTION,
        ("classification", "coordconv"): Recipe(epochs=50, batch_size=16, lr=0.005, l2=0.001),
        ("rendering", "coordconv"): Recipe(
            epochs=50, batch_size=16, lr=0.005, l2=0.001, softmax=True, filter_size=1, multiple=1
        ),
        ("regression", "coordconv"): Recipe(epochs=100, batch_size=256, lr=0.01, l2=1e-5),
    },
    "modern": {
        **_CONVOLUTION,
        ("classification", "coordconv"): Recipe(epochs=12, batch_size=16, lr=0.005, l2=0.003, cosine=True, scaled=True),
        ("rendering", "coordconv"): Recipe(
            epochs=8, batch_size=16, lr=0.005, l2=0.001, cosine=True, scaled=True, filter_size=1, multiple=1
        ),
        ("regression", "coordconv"): Recipe(epochs=12, batch_size=32, lr=0.003, cosine=True, plain_start=True),
    },
}
WARMUP = 50  # steps
QUICK = {"epochs": 2, "batch_size": 4}
QUICK_CENTRES = 8  # to train with, and as many to test with
TESTED_AT_ONCE = 64
SECONDS_PER_CHECKPOINT = 60.0
COLOURS = {"conv": "0.45", "coordconv": "tab:blue"}


@dataclass(frozen=True)
class Run:
    task: str
    layer: str
    split: str
    seed: int
    recipe_name: str
    recipe: Recipe
    counts: str = "released"
    quick: bool = False

    @property
    def name(self) -> str:
        parts = self.recipe_name, self.task, self.layer, self.split, self.counts, self.seed
        return "-".join(map(str, parts)) + ("-quick" if self.quick else "")


# --- the three tasks ----------------------------------------------------------------------------------------------


def inputs(task: str, centres: np.ndarray, scaled: bool) -> Tensor:
    """What the network sees: an image of the centre's pixel, or the centre itself, in pixels or from -1 to 1."""
    if task == "regression":
        seen = data.one_hot(centres)[:, None] / 255
    else:
        seen = 2 * centres / (data.CANVAS - 1) - 1 if scaled else centres
    return Tensor(seen.astype(np.float32))


def loss(task: str, output: Tensor, labels: np.ndarray) -> Tensor:
    if task == "classification":
        return F.cross_entropy(output, labels)
    centres = np.stack([labels % data.CANVAS, labels // data.CANVAS], axis=1)
    if task == "rendering":
        return F.binary_cross_entropy_with_logits(output, painted(centres).astype(np.float32))
    return F.mse_loss(output, data.normalised(centres))


def answers(task: str, output: np.ndarray) -> np.ndarray:
    """The centres (x, y) that the network means, in pixels; NaN where it has painted nothing."""
    if task == "regression":
        return data.CANVAS * output
    if task == "classification":
        return np.stack([output.argmax(axis=1) % data.CANVAS, output.argmax(axis=1) // data.CANVAS], axis=1)
    weights = (output > 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.stack([weights @ axis / weights.sum(axis=1) for axis in _pixels()], axis=1)


def painted(centres: np.ndarray) -> np.ndarray:
    """Which pixels belong to each square, bool (N, 4096)."""
    return (data.squares(centres) > 0).reshape(len(centres), -1)


def overlap(output: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Intersection over union of what is painted, where the probability is above one half, and the square."""
    ours, squares = output > 0, painted(centres)
    return (ours & squares).sum(axis=1) / (ours | squares).sum(axis=1)


def _pixels() -> np.ndarray:
    """x and y of the 4096 pixels."""
    rows, columns = np.indices((data.CANVAS, data.CANVAS))
    return np.stack([columns.ravel(), rows.ravel()])


# --- one run ------------------------------------------------------------------------------------------------------


class CentreLoader(DataLoader):
    """Batches of what the network sees, and of the centres' labels; all targets are made of labels."""

    def __init__(self, run: Run, centres: np.ndarray) -> None:
        super().__init__(data.one_hot(centres), data.labels(centres), run.recipe.batch_size, seed=run.seed)
        self.run, self.centres = run, centres

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, np.ndarray]]:
        order = self.order(self.epoch)
        for number in range(start, len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield inputs(self.run.task, self.centres[chosen], self.run.recipe.scaled), self.labels[chosen]
        self.epoch += 1


def build(run: Run, centres: np.ndarray) -> training.Trainer:
    """The network and how it is trained. Nothing is in the trainer's test loader: `evaluate` knows more than it."""
    ministn.manual_seed(run.seed)
    recipe = run.recipe
    model = not_so_clevr_model(run.task, run.layer, run.split, recipe.filter_size, recipe.multiple, recipe.softmax)
    if recipe.plain_start:
        for layer in model:
            if isinstance(layer, nn.CoordConv2d):
                layer.weight.data[:, layer.in_channels :] = 0  # those of the channels that the layer appends
    kernels = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 4]
    # Adam's weight_decay adds weight_decay w to the gradient; the slope of l2 w^2 is 2 l2 w.
    groups = [{"params": kernels, "weight_decay": 2 * recipe.l2}, {"params": others}]
    optimizer = optim.Adam(groups, lr=recipe.lr, betas=(0.9, 0.99))
    loader, nothing = CentreLoader(run, centres), CentreLoader(run, centres[:0])
    schedule: Any = None
    if recipe.cosine:
        steps = recipe.epochs * len(loader)
        warmup = min(WARMUP, steps - 1)
        schedule = optim.LinearWarmup(optimizer, warmup, after=optim.CosineAnnealingLR(optimizer, T_max=steps - warmup))
    elif recipe.epochs_per_lr:
        schedule = optim.StepLR(optimizer, recipe.epochs_per_lr * len(loader), gamma=0.1)
    return training.Trainer(model, optimizer, loader, nothing, schedule, loss=functools.partial(loss, run.task))


def evaluate(run: Run, model: Any, centres: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """How well the network does at these centres, and what it answers.

    ``accuracy`` is the share of answers whose nearest pixel is the centre, ``distance`` the mean distance in pixels,
    and ``iou``, in its place, the mean overlap of a rendering with the square.
    """
    model.eval()
    with no_grad():
        parts = [centres[i : i + TESTED_AT_ONCE] for i in range(0, len(centres), TESTED_AT_ONCE)]
        output = np.concatenate([model(inputs(run.task, part, run.recipe.scaled)).numpy() for part in parts])
    found = answers(run.task, output)
    scores = {"accuracy": float((np.rint(found) == centres).all(axis=1).mean())}
    if run.task == "rendering":
        scores["iou"] = float(overlap(output, centres).mean())
    else:
        scores["distance"] = float(np.linalg.norm(found - centres, axis=1).mean())
    return scores, found


def train(run: Run, checkpoint: Path) -> dict[str, Any]:
    """Train a run to its end, from its last checkpoint if there is one; returns what its result is made of."""
    centres, tested = data.split(run.split, run.counts)
    if run.quick:
        centres, tested = centres[:: len(centres) // QUICK_CENTRES], tested[:: len(tested) // QUICK_CENTRES]
    trainer = build(run, centres)
    learned = fit(trainer, run, checkpoint, lambda model: evaluate(run, model, tested)[0])
    (trained, found_in_training), (_, found) = (evaluate(run, trainer.model, part) for part in (centres, tested))
    accuracy, seconds = learned["history"]["accuracy"], learned["history"]["cpu_seconds"]
    return {
        "centres": {"train": len(centres), "test": len(tested)},
        "train": trained,
        **learned,
        "cpu_seconds_to_all_right": seconds[accuracy.index(1)] if 1 in accuracy else None,  # where it is tested, once
        "answers": {"train": as_lists(found_in_training), "test": as_lists(found)},
    }


def fit(
    trainer: training.Trainer, run: Any, checkpoint: Path, scores_of: Callable[[Any], dict[str, float]]
) -> dict[str, Any]:
    """Train to the end of the run's recipe, from the last checkpoint if there is one, with a test after each epoch."""
    compile_kernels(trainer)
    if checkpoint.exists():
        records.read_checkpoint(checkpoint).restore(trainer)
    progress = tqdm(total=run.recipe.epochs, initial=trainer.epoch, desc=run.name, unit="epoch", disable=None)
    cpu_start, last_save = time.process_time(), time.perf_counter()

    def on_epoch(trainer: training.Trainer) -> None:
        nonlocal cpu_start, last_save
        cpu_seconds = time.process_time() - cpu_start
        scores = scores_of(trainer.model)
        trainer.history[-1].update(scores, cpu_seconds=cpu_seconds)
        progress.update()
        progress.set_postfix(loss=trainer.history[-1]["train_loss"], **scores)
        if time.perf_counter() - last_save > SECONDS_PER_CHECKPOINT:
            records.save_checkpoint(checkpoint, trainer)
            last_save = time.perf_counter()
        cpu_start = time.process_time()

    with progress:
        rows = trainer.fit(run.recipe.epochs, on_epoch=on_epoch)
    scores = scores_of(trainer.model)
    history = {name: [rounded(row[name]) for row in rows] for name in ("train_loss", *scores)}
    for name, column in (("wall_seconds", "seconds"), ("cpu_seconds", "cpu_seconds")):
        history[name] = [rounded(value) for value in np.cumsum([row[column] for row in rows]).tolist()]
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "test": scores,
        "wall_seconds": history["wall_seconds"][-1],  # in training alone, without compiling and tests
        "cpu_seconds": history["cpu_seconds"][-1],  # likewise
        "history": history,
    }


def as_lists(found: np.ndarray) -> list[list[float | None]]:
    """All x, then all y, to hundredths of pixels; None where there is no answer, since JSON has no NaN."""
    return [[None if np.isnan(value) else round(float(value), 2) for value in axis] for axis in found.T]


def complete(
    run: Any, path: Path, command: str, threads: int, train: Callable[[Any, Path], dict[str, Any]] = train
) -> None:
    """Train a run, if it has no result yet, and write its result."""
    checkpoint = path.with_suffix(".safetensors")
    if path.exists():
        result = json.loads(path.read_text())
        expected = json.loads(json.dumps(dataclasses.asdict(run)))
        # What recipes have got since then was as its default is now.
        defaults = {field.name: field.default for field in dataclasses.fields(run.recipe)}
        found = {**result, "recipe": {**defaults, **result["recipe"]}}
        if any(found[name] != value for name, value in expected.items()):
            raise SystemExit(f"{path} is a run with other settings: move it away, or choose another --results")
        print(f"{path}: finished before")
        return
    about = {"command": command, **records.code_version(), "environment": {**records.environment(), "threads": threads}}
    result = {**dataclasses.asdict(run), **about, **train(run, checkpoint)}
    records.write_atomically(path, as_json(result))
    checkpoint.unlink(missing_ok=True)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in result["test"].items())
    print(f"{path}: {scores}; {result['parameters']:,} parameters, {result['cpu_seconds']:.0f} CPU seconds")


# --- pictures -----------------------------------------------------------------------------------------------------


def picture(results: list[dict[str, Any]]) -> Any:
    """Of all results for one task and split: the places, the answers of the first seed, and accuracy against time."""
    from matplotlib.figure import Figure

    task, split, counts = (results[0][name] for name in ("task", "split", "counts"))
    layers = [layer for layer in not_so_clevr.LAYERS if any(r["layer"] == layer for r in results)]
    figure = Figure(figsize=(3.4 * (len(layers) + 1) + 4.6, 3.9), layout="constrained", dpi=150)
    places, *maps, curves = figure.subplots(1, len(layers) + 2, width_ratios=[1] * (len(layers) + 1) + [1.35])
    for centres, name, colour in zip(data.split(split, counts), ("train", "test"), ("0.75", "tab:red"), strict=True):
        places.plot(*centres.T, "s", ms=1.4, color=colour, label=f"{name}: {len(centres)}")
    places.set_title("squares' centres", fontsize="medium")
    places.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2, fontsize="small", markerscale=3)
    for axes, layer in zip(maps, layers, strict=True):
        result = min((r for r in results if r["layer"] == layer), key=lambda r: r["seed"])
        for name, colour in (("train", "0.75"), ("test", COLOURS[layer] if layer != "conv" else "tab:red")):
            axes.plot(*np.array(result["answers"][name], float), "s", ms=1.4, color=colour)
        axes.set_title(f"answers of {layer}, seed {result['seed']}", fontsize="medium")
        axes.set_xlabel(", ".join(f"{name} {value:.3g}" for name, value in result["test"].items()), fontsize="small")
    for axes in (places, *maps):
        axes.set(xlim=(-1, data.CANVAS), ylim=(data.CANVAS, -1), xticks=[], yticks=[])
        axes.set_aspect("equal")
    score = "iou" if task == "rendering" else "accuracy"
    for result in results:
        history, first = result["history"], result["seed"] == min(r["seed"] for r in results)
        label = f"{result['layer']}, {result['parameters']:,} parameters" if first else None
        curves.plot(
            history["cpu_seconds"], history[score], color=COLOURS[result["layer"]], lw=1.2, alpha=0.8, label=label
        )
    curves.set(xscale="log", xlabel="CPU seconds of training", ylabel=f"{score} where it is tested", ylim=(-0.03, 1.03))
    curves.grid(alpha=0.25)
    curves.legend(fontsize="small")
    recipe, quick = results[0]["recipe_name"], ", --quick" if results[0]["quick"] else ""
    figure.suptitle(f"Not-so-Clevr: {task}, {split} split, recipe {recipe}{quick}")
    return figure


def summary(values: list[float | None], form: str, scale: float = 1) -> str:
    """Mean (lowest to highest) of the values that there are."""
    numbers = [scale * value for value in values if value is not None]
    if not numbers:
        return "–"
    shown = [format(value, form) for value in (sum(numbers) / len(numbers), min(numbers), max(numbers))]
    return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]} to {shown[2]})"


def table(results: list[dict[str, Any]]) -> str:
    """A row for each task, split, layer and recipe, as Markdown: the mean over its seeds (the lowest to the highest).

    "All right" counts the seeds that answered everything right in the end, where they were tested.
    """
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        counts = "" if result["counts"] == "released" else f", {result['counts']}'s"
        group = result["task"], f"{result['split']}{counts}", result["layer"], result["recipe_name"]
        rows.setdefault(group, []).append(result)

    lines = [
        "| task | split | layer | recipe | parameters | seeds | all right | right, % | distance, pixels | IoU, % | "
        "CPU s until all right | CPU s in all |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (task, split, layer, recipe), runs in sorted(rows.items()):
        tests = [run["test"] for run in runs]
        cells = (
            *(task, split, layer, recipe, f"{runs[0]['parameters']:,}", len(runs)),
            sum(test["accuracy"] == 1 for test in tests),
            summary([test["accuracy"] for test in tests], ".1f", 100),
            summary([test.get("distance") for test in tests], ".2f"),
            summary([test.get("iou") for test in tests], ".1f", 100),
            summary([run["cpu_seconds_to_all_right"] for run in runs], ".0f"),
            summary([run["cpu_seconds"] for run in runs], ".0f"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def draw(
    folder: Path,
    picture: Callable[[list[dict[str, Any]]], Any] = picture,
    together: tuple[str, ...] = ("recipe_name", "task", "split", "counts"),
    table: Callable[[list[dict[str, Any]]], str] = table,
) -> None:
    """A picture of all results in the folder that have these settings in common; table.md of all but --quick's."""
    groups: dict[str, list[dict[str, Any]]] = {}
    every = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if whole := [result for result in every if not result["quick"]]:
        records.write_atomically(folder / "table.md", table(whole).encode())
        print(folder / "table.md")
    for result in every:
        parts = *(str(result[name]) for name in together), *(["quick"] if result["quick"] else [])
        groups.setdefault("-".join(parts), []).append(result)
    for name, results in groups.items():
        buffer = io.BytesIO()
        picture(results).savefig(buffer, format="png")
        records.write_atomically(folder / f"{name}.png", buffer.getvalue())
        print(folder / f"{name}.png")


def add_recipe_options(parser: argparse.ArgumentParser, recipe: type) -> None:
    for field in dataclasses.fields(recipe):
        options: dict[str, Any] = {"type": float if field.type == "float" else int}
        if field.type == "bool":
            options = {"action": argparse.BooleanOptionalAction, "default": None}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options, help="in place of the recipe's")


def recipe_of(args: argparse.Namespace, recipe: Any, quick: dict[str, Any]) -> Any:
    """The recipe, with what --quick and then the options change."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(recipe)}
    changes = {**(quick if args.quick else {}), **{k: v for k, v in given.items() if v is not None}}
    return dataclasses.replace(recipe, **changes)


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="classification", choices=not_so_clevr.TASKS)
    parser.add_argument("--layer", default="coordconv", choices=not_so_clevr.LAYERS)
    parser.add_argument("--split", default="uniform", choices=data.SPLITS)
    parser.add_argument(
        "--counts", default="released", choices=data.COUNTS, help="as the paper's code or text has them"
    )
    parser.add_argument("--recipe", default="modern", choices=RECIPES, help="ours, or that of the paper's code")
    parser.add_argument("--seeds", default="0", help="one or several, such as 0,1,2")
    parser.add_argument("--results", type=Path, default=Path("runs/not_so_clevr"), help="folder (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the kernels (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two epochs with a few squares, to see it work")
    parser.add_argument("--draw", action="store_true", help="only the pictures of the results that are there")
    add_recipe_options(parser, Recipe)
    args = parser.parse_args(argv)
    args.results.mkdir(parents=True, exist_ok=True)
    if not args.draw:
        ministn.set_num_threads(args.threads)
        recipe = recipe_of(args, RECIPES[args.recipe][args.task, args.layer], QUICK)
        command = shlex.join(["python", "examples/coordconv_not_so_clevr.py", *arguments])
        for seed in map(int, args.seeds.split(",")):
            run = Run(args.task, args.layer, args.split, seed, args.recipe, recipe, args.counts, args.quick)
            complete(run, args.results / f"{run.name}.json", command, args.threads)
    draw(args.results)


if __name__ == "__main__":
    main()
