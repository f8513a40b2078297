"""Where are the digits? Boxes around MNIST digits on a canvas of 64 x 64, found with and without coordinates.

    python examples/coordconv_detection.py --layer coordconv --seeds 0,1,2    # two digits, a region proposal network
    python examples/coordconv_detection.py --layer conv --seeds 0,1,2
    python examples/coordconv_detection.py --head absolute --layer conv       # one digit, its box in one answer
    python examples/coordconv_detection.py --quick               # does it run?
    python examples/coordconv_detection.py --draw                # pictures of the results that are there

The CoordConv paper has a region proposal network, the first half of a Faster R-CNN, find digits, and reports boxes
that overlap with the true ones by 24 % more if it is given coordinates. Its boxes are corrections to those that each
cell of the last layer looks at, so a place need not be known to answer. With --head absolute it must: there the maxima
of the features over the image are all that is left, and they have to say where the digit is.

Data: `ministn.data.field_of_digits`, new fields for every batch. Networks and losses: `ministn.models.detection`; both
layers differ in the coordinates alone. Tested are 1,000 fields of test digits, always the same:

    iou                   mean overlap (intersection over union) of each digit's box with the best of those found: as
                          many as there are digits, after non-maximum suppression at 0.5
    recall_50, recall_70  share of the digits for which that is at least 0.5, or 0.7
    proposals_iou         what the paper's code measures: ten boxes after suppression at 0.8, and of each the overlap
                          with the nearest digit; on average

A run is one head, layer and seed. It leaves a JSON file in --results; a run that has one is not trained again, and one
that was stopped goes on from its last checkpoint. All of them are in table.md there.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coordconv_not_so_clevr import COLOURS, add_recipe_options, complete, draw, fit, recipe_of, summary
from reproduce_table1 import load_digits

import ministn
import ministn.functional as F
from ministn import Tensor, no_grad, optim, training
from ministn.data import DataLoader, ImageDataset
from ministn.data.field_of_digits import CANVAS, fields
from ministn.models import BoxRegressor, RegionProposalNetwork
from ministn.models.detection import LAYERS, iou, proposal_loss, proposals


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam, whose learning rate falls along half a cosine."""

    epochs: int = 15
    fields: int = 2000  # in an epoch, which is just what lies between two tests
    batch_size: int = 16
    lr: float = 0.002
    width: int = 16  # of the network; 32 in the paper's code


QUICK = {"epochs": 2, "fields": 8, "batch_size": 4, "width": 4}
TEST_FIELDS, QUICK_TEST_FIELDS, TEST_SEED, TESTED_AT_ONCE = 1000, 6, 1, 50
SHOWN = 4  # of the test fields, in the picture
HEADS = {"proposals": RegionProposalNetwork, "absolute": BoxRegressor}


@dataclass(frozen=True)
class Run:
    head: str
    layer: str
    digits: int
    data: str
    seed: int
    recipe: Recipe
    quick: bool = False

    @property
    def name(self) -> str:
        parts = self.head, self.layer, self.digits, self.data, self.seed
        return "-".join(map(str, parts)) + ("-quick" if self.quick else "")


def inputs(images: np.ndarray) -> Tensor:
    """Pixels from 0 to 1, (N, 1, 64, 64)."""
    return Tensor(images[:, None] / np.float32(255))


def loss(head: str, output: Tensor, boxes: np.ndarray) -> Tensor:
    if head == "proposals":
        return proposal_loss(output, boxes)
    return F.smooth_l1_loss(output, (boxes / CANVAS).astype(output.dtype), beta=1 / CANVAS)  # a line beyond a pixel


class FieldLoader(DataLoader):
    """Batches of fields, drawn anew for every one, and of the digits' boxes."""

    def __init__(self, run: Run, dataset: ImageDataset, number: int) -> None:
        super().__init__(dataset.train_images, dataset.train_labels, run.recipe.batch_size, seed=run.seed)
        self.digits, self.number = run.digits, number

    def __len__(self) -> int:
        return self.number // self.batch_size

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, np.ndarray]]:
        for batch in range(start, len(self)):
            generator = np.random.default_rng([self.seed, self.epoch, 1 + batch])
            images, boxes, _ = fields(self.images, self.labels, self.batch_size, self.digits, generator)
            yield inputs(images), boxes
        self.epoch += 1


def build(run: Run, dataset: ImageDataset) -> training.Trainer:
    """The network and how it is trained. Nothing is in the trainer's test loader: `evaluate` knows more than it."""
    ministn.manual_seed(run.seed)
    model = HEADS[run.head](run.layer, run.recipe.width)
    optimizer = optim.Adam(model.parameters(), lr=run.recipe.lr)
    loader, nothing = FieldLoader(run, dataset, run.recipe.fields), FieldLoader(run, dataset, 0)
    schedule = optim.CosineAnnealingLR(optimizer, run.recipe.epochs * len(loader))
    return training.Trainer(model, optimizer, loader, nothing, schedule, loss=functools.partial(loss, run.head))


def outputs(model: Any, images: np.ndarray) -> np.ndarray:
    model.eval()
    with no_grad():
        parts = [images[i : i + TESTED_AT_ONCE] for i in range(0, len(images), TESTED_AT_ONCE)]
        return np.concatenate([model(inputs(part)).numpy() for part in parts])


def found(head: str, output: np.ndarray, digits: int) -> np.ndarray:
    """As many boxes as there are digits, (N, digits, 4) in pixels."""
    return proposals(output, digits) if head == "proposals" else CANVAS * output


def evaluate(head: str, output: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """The scores that the head of this file explains."""
    best = iou(boxes, found(head, output, boxes.shape[1])).max(axis=2)
    scores = {"iou": best.mean(), "recall_50": (best >= 0.5).mean(), "recall_70": (best >= 0.7).mean()}
    if head == "proposals":
        scores["proposals_iou"] = iou(proposals(output, 10, threshold=0.8), boxes).max(axis=2).mean()
    return {name: float(score) for name, score in scores.items()}


def tested_fields(dataset: ImageDataset, digits: int, quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images and boxes."""
    number = QUICK_TEST_FIELDS if quick else TEST_FIELDS
    generator = np.random.default_rng(TEST_SEED)
    return fields(dataset.test_images, dataset.test_labels, number, digits, generator)[:2]


def train(run: Run, checkpoint: Path, data_dir: Path | None = None) -> dict[str, Any]:
    """Train a run to its end, from its last checkpoint if there is one; returns what its result is made of."""
    dataset = load_digits(run.data, data_dir, run.quick)
    images, boxes = tested_fields(dataset, run.digits, run.quick)
    trainer = build(run, dataset)
    learned = fit(trainer, run, checkpoint, lambda model: evaluate(run.head, outputs(model, images), boxes))
    shown = found(run.head, outputs(trainer.model, images[:SHOWN]), run.digits)
    return {**learned, "found": shown.round(2).tolist()}


# --- pictures -----------------------------------------------------------------------------------------------------


def picture(results: list[dict[str, Any]], data_dir: Path | None = None) -> Any:
    """Of all results for one head: test fields with true boxes and those that each layer found, and overlap by time."""
    from matplotlib.figure import Figure

    head, digits, name, quick = (results[0][key] for key in ("head", "digits", "data", "quick"))
    layers = [layer for layer in LAYERS if any(r["layer"] == layer for r in results)]
    images, boxes = tested_fields(load_digits(name, data_dir, quick), digits, quick)
    figure = Figure(figsize=(1.9 * SHOWN + 5.2, 2.05 * len(layers) + 0.9), layout="constrained", dpi=150)
    left, right = figure.subfigures(1, 2, width_ratios=[1.9 * SHOWN, 5.2])
    rows = left.subplots(len(layers), SHOWN, squeeze=False)
    for row, layer in zip(rows, layers, strict=True):
        result = min((r for r in results if r["layer"] == layer), key=lambda r: r["seed"])
        row[0].set_ylabel(f"{layer}, seed {result['seed']}")
        for axes, image, true, ours in zip(row, images, boxes, np.array(result["found"]), strict=False):
            axes.imshow(image, cmap="gray_r", extent=(0, CANVAS, CANVAS, 0), vmax=400)  # pale, for boxes to be seen
            for box in true:
                axes.plot(*_outline(box), color="black", lw=1)
            for box in ours:
                axes.plot(*_outline(box), color="tab:red", lw=1, ls="--")
            axes.set(xticks=[], yticks=[], xlim=(0, CANVAS), ylim=(CANVAS, 0))
            axes.set_xlabel(f"IoU {iou(true, ours).max(axis=1).mean():.2f}", fontsize="small")
    left.supxlabel("black: true, red: found", fontsize="small")
    curves = right.subplots()
    for result in results:
        first = result["seed"] == min(r["seed"] for r in results if r["layer"] == result["layer"])
        label = f"{result['layer']}, {result['parameters']:,} parameters" if first else None
        time, score = (result["history"][key] for key in ("cpu_seconds", "iou"))
        curves.plot(time, score, color=COLOURS[result["layer"]], lw=1.2, alpha=0.8, label=label)
    curves.set(xlabel="CPU seconds of training", ylabel="mean IoU of test digits", xlim=(0, None), ylim=(0, 1))
    curves.grid(alpha=0.25)
    curves.legend(fontsize="small", loc="lower right")
    of = "region proposals" if head == "proposals" else "one answer for the image"
    figure.suptitle(f"Boxes by {of}, {digits} digit{'s' * (digits > 1)} of {name}{', --quick' * quick}")
    return figure


def _outline(box: np.ndarray) -> tuple[list[float], list[float]]:
    x0, y0, x1, y1 = box
    return [x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0]


def table(results: list[dict[str, Any]]) -> str:
    """A row for each head and layer, as Markdown: the mean over its seeds (the lowest to the highest)."""
    lines = [
        "| head | layer | digits | parameters | seeds | IoU, % | recall at 0.5, % | 0.7, % | IoU of ten, % | CPU s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault((result["head"], result["layer"], result["digits"]), []).append(result)
    for (head, layer, digits), runs in sorted(rows.items()):
        scores = ("iou", "recall_50", "recall_70", "proposals_iou")
        cells = (
            *(head, layer, digits, f"{runs[0]['parameters']:,}", len(runs)),
            *(summary([run["test"].get(score) for run in runs], ".1f", 100) for score in scores),
            summary([run["cpu_seconds"] for run in runs], ".0f"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="proposals", choices=HEADS)
    parser.add_argument("--layer", default="coordconv", choices=LAYERS)
    parser.add_argument("--digits", type=int, help="in a field: 2, but 1 with --head absolute")
    parser.add_argument("--data", default="mnist", choices=("mnist", "strokes"), help="which digits (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder with the MNIST files")
    parser.add_argument("--seeds", default="0", help="one or several, such as 0,1,2")
    parser.add_argument("--results", type=Path, default=Path("runs/detection"), help="folder (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the kernels (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two epochs with a few fields, to see it work")
    parser.add_argument("--draw", action="store_true", help="only the pictures of the results that are there")
    add_recipe_options(parser, Recipe)
    args = parser.parse_args(argv)
    usual = 1 if args.head == "absolute" else 2
    digits = usual if args.digits is None else args.digits
    if digits < 1 or (args.head == "absolute" and digits > 1):
        parser.error(f"expected --digits to be 1{' or more' * (args.head == 'proposals')}, got {digits}")
    args.results.mkdir(parents=True, exist_ok=True)
    if not args.draw:
        ministn.set_num_threads(args.threads)
        recipe = recipe_of(args, Recipe(), QUICK)
        command = shlex.join(["python", "examples/coordconv_detection.py", *arguments])
        for seed in map(int, args.seeds.split(",")):
            run = Run(args.head, args.layer, digits, args.data, seed, recipe, args.quick)
            path = args.results / f"{run.name}.json"
            complete(run, path, command, args.threads, functools.partial(train, data_dir=args.data_dir))
    draw(args.results, functools.partial(picture, data_dir=args.data_dir), ("head", "digits", "data"), table)


if __name__ == "__main__":
    main()
