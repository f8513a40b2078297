"""How far do the corners of distorted MNIST's set P move? Measured with a network that has no transformer.

    python examples/benchmarks/calibrate_projection.py --threads 1        # six minutes
    python examples/benchmarks/calibrate_projection.py --quick            # does it run?
    python examples/benchmarks/calibrate_projection.py --folder F --plot  # draws what is in F/projection_sigma.json

The paper says that the corners move, but not how far. It does say how often its networks without a transformer misread
the set: so here the plain dense one is trained on P with several standard deviations (sigma, pixels), and where it errs
as often as the paper's, the sets are about equally hard. It is also trained on R, RTS and E, of which the paper says
more: there is seen how far the two networks are alike at all. docs/distorted_mnist.md says what follows from it.

All trainings have the same recipe and seed; they see new distortions in each epoch, and are tested on the test images
of Table 1 (on P, on those of the same seed) after the last one. Prints a table and writes projection_sigma.json and
projection_sigma.png to the folder.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

import ministn
from ministn import data, models, optim, records, training
from ministn.data.distortions import Distortion, Projected

sys.path.append(str(Path(__file__).parents[1]))
from reproduce_table1 import PAPER, TEST_SEED

MODEL = "FCN"
OTHER_SETS = ("R", "RTS", "E")
SIGMAS = (2.0, 2.5, 2.75, 3.0, 4.0, 5.0)
RECIPE = {
    "epochs": 15,
    "batch_size": 128,
    "lr": 4e-3,  # AdamW, along half a cosine down to 0
    "weight_decay": 0.01,
    "dropout": 0.2,
    "batch_norm": True,
    "pixel_std": 0.3,  # what the pixels, 0 to 1, are divided by
    "seed": 0,
}


def train(dataset: data.ImageDataset, distortion: Distortion, recipe: dict[str, Any]) -> dict[str, Any]:
    """Train the network on one set; its test error after the last epoch, and what it took."""
    ministn.manual_seed(recipe["seed"])
    model = models.table1_model(
        MODEL, canvas=distortion.canvas, batch_norm=recipe["batch_norm"], dropout=recipe["dropout"]
    )
    train_loader = data.DataLoader(
        dataset.train_images,
        dataset.train_labels,
        recipe["batch_size"],
        seed=recipe["seed"],
        std=recipe["pixel_std"],
        augment=distortion,
    )
    test_images = data.distorted_test_set(dataset.test_images, distortion, TEST_SEED)
    test_loader = data.DataLoader(test_images, dataset.test_labels, 500, shuffle=False, std=recipe["pixel_std"])
    optimizer = optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    schedule = optim.CosineAnnealingLR(optimizer, T_max=recipe["epochs"] * len(train_loader))
    trainer = training.Trainer(model, optimizer, train_loader, test_loader, schedule)
    started = time.process_time()
    trainer.fit(recipe["epochs"])
    return {
        "error_percent": round(100 * (1 - trainer.history[-1]["test_accuracy"]), 4),
        "train_error_percent": round(100 * (1 - trainer.history[-1]["train_accuracy"]), 4),  # while learning
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def measure(dataset: data.ImageDataset, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each set: those other than P, then P with each sigma."""
    sets: list[tuple[str, float | None, Distortion]] = [
        *((name, None, data.distortions.get(name, dataset.train_images)) for name in OTHER_SETS),
        *(("P", sigma, Projected(sigma=sigma)) for sigma in SIGMAS),
    ]
    rows = []
    for name, sigma, distortion in sets:
        paper = PAPER[MODEL, None, name]
        rows.append({"set": name, "sigma": sigma, "paper_percent": paper, **train(dataset, distortion, recipe)})
        print(f"{label(rows[-1])}: {rows[-1]['error_percent']:.2f} % (paper {paper} %)", flush=True)
    return rows


def label(row: dict[str, Any]) -> str:
    return row["set"] if row["sigma"] is None else f"{row['set']}, sigma {row['sigma']:g}"


def as_hard_as_the_papers(rows: list[dict[str, Any]]) -> float | None:
    """The sigma at which the error is the paper's, on a line between the two next to it (errors as logarithms); None if
    no two are."""
    points = sorted((row["sigma"], row["error_percent"]) for row in rows if row["sigma"] is not None)
    paper = PAPER[MODEL, None, "P"]
    for (low, below), (high, above) in itertools.pairwise(points):
        if 0 < below <= paper < above:
            part = np.log(paper / below) / np.log(above / below)
            return round(float(low + part * (high - low)), 2)
    return None


def table(rows: list[dict[str, Any]]) -> str:
    header = ["set", "error in %", "the paper's", "minutes of processor time"]
    cells = [
        [label(row), f"{row['error_percent']:.2f}", f"{row['paper_percent']}", f"{row['cpu_seconds'] / 60:.1f}"]
        for row in rows
    ]
    return side_by_side.table(header, cells)


def picture(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    ours, theirs = "tab:blue", "0.45"
    figure = Figure(figsize=(9, 3.8), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    rows = result["results"]
    points = sorted((row["sigma"], row["error_percent"]) for row in rows if row["sigma"] is not None)
    paper, used = PAPER[MODEL, None, "P"], Projected().sigma
    left.axhline(paper, color=theirs, ls="--", lw=1, label=f"the paper's {MODEL} on its P: {paper} %")
    left.axvline(used, color="0.8", lw=5, zorder=0, label=f"sigma of our P: {used:g}")
    left.plot(*zip(*points, strict=True), "o-", color=ours, ms=5, label=f"our {MODEL}")
    for sigma, error in points:
        below = 0.8 * paper < error <= paper  # above it the label would lie on the line of the paper's error
        at = {"xytext": (7, -5), "va": "top"} if below else {"xytext": (-7, 5), "ha": "right"}
        left.annotate(f"{error:.2f}", (sigma, error), fontsize="small", textcoords="offset points", **at)
    left.set_yscale("log")
    ticks = [2, 3, 5, 10, 20]
    left.set_yticks(ticks, [str(tick) for tick in ticks])
    left.yaxis.set_minor_locator(NullLocator())
    left.margins(x=0.12, y=0.15)
    left.set(xlabel="sigma: standard deviation of a corner's coordinates, pixels", ylabel="misread test digits in %")
    left.set_title("P", fontsize="medium")
    left.grid(alpha=0.25)
    left.legend(fontsize="small", loc="lower right")

    others = [row for row in rows if row["sigma"] is None]
    at = np.arange(len(others))
    for shift, key, colour, name in (
        (-0.2, "paper_percent", theirs, f"the paper's {MODEL}"),
        (0.2, "error_percent", ours, f"our {MODEL}"),
    ):
        bars = right.bar(at + shift, [row[key] for row in others], 0.38, color=colour, label=name)
        right.bar_label(bars, fmt="%.1f" if key == "paper_percent" else "%.2f", fontsize="small")
    right.set_xticks(at, [row["set"] for row in others])
    right.set_ylabel("misread test digits in %")
    right.set_title("sets of which the paper says more", fontsize="medium")
    right.margins(y=0.12)
    right.legend(fontsize="small", loc="best")
    data_name, epochs = result["data"], result["recipe"]["epochs"]
    figure.suptitle(f"How hard is P? A dense network without a transformer, {data_name}, {epochs} epochs, one seed")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = side_by_side.training_parser(__doc__).parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "projection_sigma.json"
    if not args.plot:
        ministn.set_num_threads(args.threads)
        dataset = data.strokes.load(500, 200) if args.quick else data.load("mnist", args.data_dir)
        recipe = {**RECIPE, "epochs": 1} if args.quick else RECIPE
        arguments = sys.argv[1:] if argv is None else argv
        about = {
            "command": shlex.join(["python", "examples/benchmarks/calibrate_projection.py", *arguments]),
            **records.code_version(),
            "environment": {**records.environment(), "threads": args.threads},
            "data": dataset.name,
            "model": f"{MODEL}, without a transformer",
            "optimizer": "AdamW",
            "recipe": recipe,
            "test_seed": TEST_SEED,
        }
        rows = measure(dataset, recipe)
        sigma = as_hard_as_the_papers(rows)
        print(f"\n{table(rows)}\n\nas hard as the paper's P: sigma {sigma}")
        side_by_side.write_json(path, {**about, "sigma_of_the_papers_error": sigma, "results": rows})
    side_by_side.write_picture(path.with_suffix(".png"), picture(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
