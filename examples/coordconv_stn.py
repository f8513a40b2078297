"""Does a spatial transformer learn better if the network that decides on the transformation sees coordinates?

    python examples/coordconv_stn.py --data RTS --layer coordconv --seeds 0,1,2,3,4
    python examples/coordconv_stn.py --data RTS --layer conv --seeds 0,1,2,3,4
    python examples/coordconv_stn.py --data TC --layer plain-start    # a CoordConv that begins as a convolution
    python examples/coordconv_stn.py --data TC --reading maxima --layer conv    # see below
    python examples/coordconv_stn.py --quick               # does it run?
    python examples/coordconv_stn.py --draw                # table and pictures of the results that are there

The localisation network has to say where the digit is, which a convolution alone cannot. That of the Spatial
Transformer paper can: after two convolutions a dense layer reads the map, with weights of its own for each place
(--reading dense). So coordinates may have nothing to add. With --reading maxima the dense layer gets the maximum of
each channel, wherever it was: that takes far fewer weights and images of any size, and leaves nothing but the
coordinates to tell places apart. On 28 x 28 pixels (MNIST, R) the second convolution covers the whole map, one place
is left, and both readings are the same network.

Everything else is alike: the data of Table 1 (`ministn.data.distortions`; MNIST is what they are made of), the
classifier of ST-CNN with fewer parameters, the training, the seeds. An epoch is a hundred batches, which is just what
lies between two tests with the first 2,000 distorted test digits; in the end it is all 10,000.

A run is one set, reading, layer and seed. It leaves a JSON file in --results; a run that has one is not trained again,
and one that was stopped goes on from its last checkpoint. All of them are in table.md there.

Jaderberg et al. (2015), "Spatial transformer networks", arXiv:1506.02025, appendix A.4; R. Liu et al. (2018), "An
intriguing failing of convolutional neural networks and the CoordConv solution", arXiv:1807.03247, section 3.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coordconv_not_so_clevr import add_recipe_options, complete, draw, fit, recipe_of, summary
from reproduce_table1 import TEST_SEED, load_digits

import ministn
import ministn.functional as F
from ministn import nn, optim, training
from ministn.data import DataLoader, ImageDataset, distorted_test_set, distortions
from ministn.models import table1_model


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, whose learning rate rises in a line and falls along half a cosine."""

    epochs: int = 30
    steps: int = 100  # in an epoch
    batch_size: int = 128
    warmup: int = 200  # steps
    lr: float = 0.01
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    parameters: int = 100_000  # of the network that has --reading dense and --layer conv, at most
    first_filters: int = 16  # of the classifier's first convolution


QUICK = {"epochs": 2, "steps": 2, "batch_size": 16, "warmup": 1, "parameters": 60_000, "first_filters": 2}
SETS = ("MNIST", "R", "RTS", "TC")
READINGS = {"dense": "a dense layer reads the map", "maxima": "a dense layer reads the channels' maxima"}
LAYERS = {"conv": nn.Conv2d, "coordconv": nn.CoordConv2d, "plain-start": nn.CoordConv2d}
COLOURS = {"conv": "0.45", "coordconv": "tab:blue", "plain-start": "tab:orange"}
TESTED_BETWEEN = 2000  # digits
GOAL = 0.95  # the accuracy that the table says when it was reached


@dataclass(frozen=True)
class Run:
    data: str
    reading: str
    layer: str
    digits: str
    seed: int
    recipe: Recipe
    quick: bool = False

    @property
    def name(self) -> str:
        parts = self.data, self.reading, self.layer, self.digits, self.seed
        return "-".join(map(str, parts)) + ("-quick" if self.quick else "")


def localisation(canvas: int, reading: str, layer: str) -> nn.Sequential:
    """That of ST-CNN in Table 1, with a choice of the convolutions and of what comes after them.

    Images (N, 1, canvas, canvas) to theta (N, 6); with coordinates both convolutions see two channels more, x and y.
    """
    convolution = LAYERS[layer]
    side = (canvas // 2 - 4) // 2 - 4  # of the map after the second convolution
    places = side**2 if reading == "dense" else 1
    first, second = convolution(1, 20, kernel_size=5), convolution(20, 20, kernel_size=5)
    if layer == "plain-start":
        for coordconv in (first, second):
            coordconv.weight.data[:, coordconv.in_channels :] = 0  # those of the channels that the layer appends
    return nn.Sequential(
        nn.AvgPool2d(2),  # (N, 1, canvas / 2, canvas / 2)
        first,
        nn.BatchNorm2d(20),
        nn.MaxPool2d(2),
        nn.ReLU(),
        second,
        nn.BatchNorm2d(20),
        nn.ReLU(),  # (N, 20, side, side)
        *([nn.MaxPool2d(side)] if reading == "maxima" else []),
        nn.Flatten(),
        nn.Linear(20 * places, 20),
        nn.BatchNorm1d(20),
        nn.ReLU(),
        nn.identity_(nn.Linear(20, 6)),
    )


class PartLoader(DataLoader):
    """Batches of an epoch of which only the first `steps` are used; the next epoch has another order."""

    def __init__(self, steps: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.steps = steps

    def __len__(self) -> int:
        return min(self.steps, super().__len__())


def build(run: Run, dataset: ImageDataset) -> training.Trainer:
    """The network and how it is trained. Nothing is in the trainer's test loader: `train` tests in two ways."""
    ministn.manual_seed(run.seed)
    recipe = run.recipe
    distortion = None if run.data == "MNIST" else distortions.get(run.data, dataset.train_images)
    canvas = dataset.train_images.shape[1] if distortion is None else distortion.canvas
    model = table1_model(
        "ST-CNN",
        "affine",
        canvas,
        recipe.parameters,
        batch_norm=True,
        localisation_batch_norm=True,
        first_filters=recipe.first_filters,
    )
    output_size = model.transformer.output_size
    model.transformer = nn.SpatialTransformer(
        localisation(canvas, run.reading, run.layer), transform="affine", output_size=output_size
    )
    train_loader = PartLoader(
        recipe.steps,
        dataset.train_images,
        dataset.train_labels,
        recipe.batch_size,
        seed=run.seed,
        drop_last=True,
        augment=distortion,
    )
    nothing = DataLoader(dataset.test_images[:0], dataset.test_labels[:0])
    optimizer = optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * len(train_loader)
    warmup = min(recipe.warmup, steps - 1)
    fall = optim.CosineAnnealingLR(optimizer, T_max=steps - warmup)
    schedule = optim.LinearWarmup(optimizer, warmup, after=fall)
    loss = functools.partial(F.nll_loss, label_smoothing=recipe.label_smoothing)
    return training.Trainer(model, optimizer, train_loader, nothing, schedule, loss=loss)


def train(run: Run, checkpoint: Path, data_dir: Path | None = None) -> dict[str, Any]:
    """Train a run to its end, from its last checkpoint if there is one; returns what its result is made of."""
    dataset = load_digits(run.digits, data_dir, run.quick)
    trainer = build(run, dataset)
    images, labels = dataset.test_images, dataset.test_labels
    if trainer.train_loader.augment is not None:
        images = distorted_test_set(images, trainer.train_loader.augment, TEST_SEED)

    def accuracy(model: Any) -> dict[str, float]:
        number = len(labels) if trainer.epoch == run.recipe.epochs else TESTED_BETWEEN
        loader = DataLoader(images[:number], labels[:number], 500, shuffle=False)
        return {"accuracy": training.evaluate(model, loader).accuracy}

    return fit(trainer, run, checkpoint, accuracy)


def steps_to(goal: float, result: dict[str, Any]) -> int | None:
    """After how many steps a test in between had this accuracy for the first time."""
    reached = [epoch for epoch, value in enumerate(result["history"]["accuracy"][:-1], 1) if value >= goal]
    return reached[0] * result["recipe"]["steps"] if reached else None


# --- pictures -----------------------------------------------------------------------------------------------------


def picture(results: list[dict[str, Any]]) -> Any:
    """Of all results on one set: error against steps, a line for each seed, a panel for each reading."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    readings = [reading for reading in READINGS if any(r["reading"] == reading for r in results)]
    figure = Figure(figsize=(4.6 * len(readings), 3.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(readings), sharey=True, squeeze=False)[0]
    for axes, reading in zip(panels, readings, strict=True):
        for layer in LAYERS:
            runs = [r for r in results if (r["reading"], r["layer"]) == (reading, layer)]
            for number, run in enumerate(runs):
                errors = 100 * (1 - np.array(run["history"]["accuracy"]))
                steps = run["recipe"]["steps"] * np.arange(1, len(errors) + 1)
                label = None if number else f"{layer}, {run['parameters']:,} parameters"
                axes.plot(steps[:-1], errors[:-1], color=COLOURS[layer], lw=1.1, alpha=0.8, label=label)
                axes.plot(steps[-1], errors[-1], "o", ms=4, color=COLOURS[layer], alpha=0.8)
        axes.set(yscale="log", xlabel="steps", title=READINGS[reading])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25, which="both")
        axes.legend(fontsize="small", title="dots: all test digits, in the end", title_fontsize="small")
    panels[0].set_ylabel("test error, %")
    first = results[0]
    figure.suptitle(f"Localisation with and without coordinates: {first['data']}{', --quick' * first['quick']}")
    return figure


def table(results: list[dict[str, Any]]) -> str:
    """A row for each set, reading and layer, as Markdown: the mean over its seeds (the lowest to the highest)."""
    lines = [
        f"| set | reading | layer | parameters | seeds | test error, % | steps to {GOAL:.0%} | CPU s |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["data"], result["reading"], result["layer"]), []).append(result)
    for (data, reading, layer), runs in sorted(rows.items()):
        reached = [steps for run in runs if (steps := steps_to(GOAL, run)) is not None]
        cells = (
            *(data, reading, layer, f"{runs[0]['parameters']:,}", len(runs)),
            summary([1 - run["test"]["accuracy"] for run in runs], ".2f", 100),
            summary(reached, ".0f") + (f", {len(reached)} of {len(runs)}" if len(reached) < len(runs) else ""),
            summary([run["cpu_seconds"] for run in runs], ".0f"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="RTS", choices=SETS, help="(%(default)s)")
    parser.add_argument("--reading", default="dense", choices=READINGS, help="of the map (%(default)s)")
    parser.add_argument("--layer", default="coordconv", choices=LAYERS, help="(%(default)s)")
    parser.add_argument("--digits", default="mnist", choices=("mnist", "strokes"), help="made of which (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder with the MNIST files")
    parser.add_argument("--seeds", default="0", help="one or several, such as 0,1,2")
    parser.add_argument("--results", type=Path, default=Path("runs/coordconv_stn"), help="folder (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the kernels (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two epochs with a few digits, to see it work")
    parser.add_argument("--draw", action="store_true", help="only table and pictures of the results that are there")
    add_recipe_options(parser, Recipe)
    args = parser.parse_args(argv)
    args.results.mkdir(parents=True, exist_ok=True)
    if not args.draw:
        ministn.set_num_threads(args.threads)
        recipe = recipe_of(args, Recipe(), QUICK)
        command = shlex.join(["python", "examples/coordconv_stn.py", *arguments])
        for seed in map(int, args.seeds.split(",")):
            run = Run(args.data, args.reading, args.layer, args.digits, seed, recipe, args.quick)
            path = args.results / f"{run.name}.json"
            complete(run, path, command, args.threads, functools.partial(train, data_dir=args.data_dir))
    draw(args.results, picture, ("data",), table)


if __name__ == "__main__":
    main()
