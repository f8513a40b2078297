"""How long distorted MNIST takes to make, and how long Table 1 takes to train with it.

    python examples/benchmarks/distortions.py --threads 2              # five minutes
    python examples/benchmarks/distortions.py --only "ST-CNN affine"   # cells with this in their names
    python examples/benchmarks/distortions.py --quick                  # does it run?

First, for each set of `ministn.data.distortions`: how many images the distortion makes in a second, drawing what is
random included. Then, for each cell of Table 1, with the network and the recipe of examples/reproduce_table1.py: how
long a batch takes (gather, distort, normalise, lay out) and how long a training step with it, and the share that the
batch has of both; and how many minutes the whole training takes so, its steps and the test after each epoch. Batches
and steps are made in turn, as in training, and the medians are given. Before the clock starts, each has run and is
compiled. A load (load_before) of more than 0.5 means that something else was running, and that the figures are not to
be trusted.

Prints the tables and writes distortions.json to the folder.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

from ministn import data, records, set_num_threads, training

sys.path.append(str(Path(__file__).parents[1]))
from reproduce_table1 import NETWORKS, SETS, Run, build, recipe_for

TESTED = 2000  # test images whose time is taken


def rate(name: str, dataset: Any) -> float:
    """Distorted images a second."""
    distortion, images = data.distortions.get(name, dataset.train_images), dataset.train_images
    generator = np.random.default_rng(0)
    parts = [images[start : start + 128] for start in range(0, len(images), 128)]
    distortion(parts[0], generator)
    start = time.perf_counter()
    for part in parts:
        distortion(part, generator)
    return len(images) / (time.perf_counter() - start)


def measure(run: Run, dataset: Any, steps: int) -> dict[str, Any]:
    """Times in seconds, of batches and steps the medians, and minutes of the whole training."""
    trainer = build(run, dataset)
    batches, making, learning = iter(trainer.train_loader), [], []
    for step in range(2 + steps):
        start = time.perf_counter()
        images, labels = next(batches)
        made = time.perf_counter()
        trainer.train_step(images, labels)
        if step >= 2:
            making.append(made - start)
            learning.append(time.perf_counter() - made)
    training.evaluate(trainer.model, trainer.test_loader)
    start = time.perf_counter()
    training.evaluate(trainer.model, trainer.test_loader)
    test = (time.perf_counter() - start) * 10_000 / len(dataset.test_images)
    batch, step_time, epochs = statistics.median(making), statistics.median(learning), run.recipe.epochs
    seconds = epochs * (60_000 // run.recipe.batch_size * (batch + step_time) + test)
    return {
        **{"model": run.model, "transform": run.transform, "set": run.data, "epochs": epochs},
        **{"batch_seconds": batch, "step_seconds": step_time, "test_seconds": test},
        "share": batch / (batch + step_time),
        "minutes": seconds / 60,
    }


def cell_name(model: str, transform: str | None, name: str) -> str:
    """Such as "ST-CNN affine on R"."""
    return f"{' '.join(filter(None, (model, transform)))} on {name}"


def tables(results: dict[str, list[dict[str, Any]]]) -> str:
    sets = [
        [
            row["set"],
            str(row["threads"]),
            f"{row['images_per_second']:,.0f}",
            f"{60_000 / row['images_per_second']:.2f} s",
        ]
        for row in results["sets"]
    ]
    cells = [
        [
            cell_name(row["model"], row["transform"], row["set"]),
            str(row["threads"]),
            f"{1e3 * row['batch_seconds']:.2f} ms",
            f"{1e3 * row['step_seconds']:.1f} ms",
            f"{100 * row['share']:.1f} %",
            str(row["epochs"]),
            f"{row['minutes']:.1f}",
        ]
        for row in results["cells"]
    ]
    header = ["cell", "threads", "a batch", "a step", "the batch's share", "epochs", "minutes"]
    return "\n\n".join(
        [
            side_by_side.table(["set", "threads", "distorted images a second", "60,000 of them"], sets),
            side_by_side.table(header, cells),
        ]
    )


def main(argv: list[str] | None = None) -> None:
    from threadpoolctl import threadpool_limits

    args = side_by_side.parser(__doc__).parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    threadpool_limits(limits=1, user_api="blas")  # as Trainer.fit sets them
    dataset = data.strokes.load(700, 100) if args.quick else data.load()
    tested = slice(TESTED)
    dataset = dataclasses.replace(
        dataset, test_images=dataset.test_images[tested], test_labels=dataset.test_labels[tested]
    )
    setting = {**records.environment(), "processors": os.cpu_count(), "load_before": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    results: dict[str, list[dict[str, Any]]] = {"sets": [], "cells": []}
    chosen = [
        (*network, name)
        for network in NETWORKS
        for name in SETS
        # the paper has TC without a transform, we with the affine one
        if (name != "TC" or network[1] in (None, "affine")) and args.only in cell_name(*network, name)
    ]
    for threads in args.threads:
        set_num_threads(threads)
        for name in dict.fromkeys(cell[2] for cell in chosen):
            results["sets"].append({"set": name, "threads": threads, "images_per_second": rate(name, dataset)})
        for model, transform, name in chosen:
            recipe = recipe_for("modern", model, name, {}, transform)
            run = Run(model, transform, name, 0, "modern", recipe)
            results["cells"].append({**measure(run, dataset, 2 if args.quick else args.rounds), "threads": threads})
            print(
                f"{cell_name(model, transform, name)}: {results['cells'][-1]['minutes']:.1f} minutes", file=sys.stderr
            )
    print(f"{dataset.name}\n\n{tables(results)}")
    about = {"data": dataset.name, **records.code_version(), "environment": setting}
    side_by_side.write_json(args.folder / "distortions.json", {**about, **results})


if __name__ == "__main__":
    main()
