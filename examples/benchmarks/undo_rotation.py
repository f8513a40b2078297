"""Does the transformer turn digits upright? With plain labels hardly, with smoothed ones it does.

    python examples/benchmarks/undo_rotation.py --threads 1        # twenty minutes
    python examples/benchmarks/undo_rotation.py --quick            # does it run?
    python examples/benchmarks/undo_rotation.py --folder F --plot  # draws what is in F/undo_rotation.json

A spatial transformer learns from the classifier's loss alone. A likely reason why it leaves digits turned: once the
classifier reads them as they are, that loss has next to no gradient left. With smoothed labels (Szegedy et
al. 2016, arXiv:1512.00567, section 7) the loss is least at certain finite scores, so that it keeps asking for images
that give just those: for digits of a class to look alike.

Here the ST-CNN of Table 1 with an affine transformer (Jaderberg et al. 2015, arXiv:1506.02025) is trained on RTS, both
ways, all else equal. Test digits are turned by known angles a, and the angle b by which theta turns the sampling grid
is read off its matrix. In each class, b = slope * a + constant is fitted: with slope 1 the transformer undoes every
turn, with slope 0 none. Prints the slopes (the median over the classes) and errors after each epoch, and writes
undo_rotation.json and undo_rotation.png to the folder.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side

import ministn
from ministn import Tensor, data, no_grad, records

sys.path.append(str(Path(__file__).parents[1]))
from reproduce_table1 import TEST_SEED, Run, build, error_of, recipe_for

MODEL, TRANSFORM, SET = "ST-CNN", "affine", "RTS"
SMOOTHING = (0.0, 0.1)
EPOCHS = 12
DIGITS = 2000  # of the test set, whose angles are measured
SHOWN = 3  # the class in the picture


def angles(theta: np.ndarray) -> np.ndarray:
    """Degrees by which each matrix (N, 2, 3) turns the grid, clockwise on the screen: those of the nearest rotation.

    The rotation R(b) nearest to a matrix A has the largest trace of R(b)^T A, which is
    (A_11 + A_22) cos b + (A_21 - A_12) sin b.
    """
    radians = np.arctan2(theta[:, 1, 0] - theta[:, 0, 1], theta[:, 0, 0] + theta[:, 1, 1])
    degrees: np.ndarray = np.degrees(radians)
    return degrees


def slopes(turned: np.ndarray, undone: np.ndarray, labels: np.ndarray) -> list[float]:
    """Of the line through (turned, undone), by least squares, for each class."""
    return [float(np.polyfit(turned[labels == k], undone[labels == k], 1)[0]) for k in np.unique(labels)]


def train(dataset: data.ImageDataset, smoothing: float, changes: dict[str, Any]) -> dict[str, Any]:
    """Train with so much smoothing; slope and error after each epoch, and the angles of one class at the end."""
    recipe = recipe_for("modern", MODEL, SET, {**changes, "label_smoothing": smoothing})
    trainer = build(Run(MODEL, TRANSFORM, SET, 0, "modern", recipe), dataset)
    distortion, labels = trainer.train_loader.augment, dataset.test_labels[:DIGITS]
    turned, *others = distortion.draw(len(labels), np.random.default_rng(TEST_SEED))
    images = distortion.distort(dataset.test_images[:DIGITS], turned, *others)
    x = Tensor(images[:, None].astype(np.float32) / 255)
    row: dict[str, Any] = {"label_smoothing": smoothing, "slope": [], "error_percent": []}
    started = time.process_time()

    def measure(trainer: Any) -> None:
        trainer.model.eval()
        with no_grad():
            undone = angles(trainer.model.theta(x).numpy())
        row["slope"].append(round(float(np.median(slopes(turned, undone, labels))), 4))
        row["error_percent"].append(error_of(trainer.history[-1]))
        shown = labels == SHOWN
        row["turned"], row["undone"] = (np.round(a[shown], 2).tolist() for a in (turned, undone))
        print(
            f"smoothing {smoothing:g}, epoch {trainer.epoch}: slope {row['slope'][-1]:.2f}, "
            f"test error {row['error_percent'][-1]:.2f} %",
            flush=True,
        )

    trainer.fit(recipe.epochs, on_epoch=measure)
    return {**row, "cpu_seconds": round(time.process_time() - started, 1)}


def picture(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = result["results"]
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=150)
    left, *scatters = figure.subplots(1, 1 + len(rows), width_ratios=[1.15] + [1] * len(rows))
    for row, axes, colour in zip(rows, scatters, ("0.45", "tab:blue"), strict=True):
        smoothing, epochs = row["label_smoothing"], np.arange(1, len(row["slope"]) + 1)
        name = f"labels smoothed by {smoothing:g}" if smoothing else "plain labels"
        left.plot(epochs, row["slope"], "o-", ms=4, color=colour, label=name)
        axes.plot([-45, 45], [-45, 45], color="0.8", lw=1, zorder=0)
        axes.plot(row["turned"], row["undone"], ".", ms=3, color=colour)
        axes.set(title=f"{name}: digits of class {SHOWN}", xlabel="turned by, degrees", xlim=(-60, 60), ylim=(-60, 60))
        axes.set_xticks([-45, 0, 45])
        axes.set_yticks([-45, 0, 45])
        axes.set_aspect("equal")
        axes.title.set_fontsize("small")
    scatters[0].set_ylabel("grid turned by, degrees")
    left.set(xlabel="epoch", ylabel="part of a turn that is undone", ylim=(min(0, *left.get_ylim()), 1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.25)
    left.legend(fontsize="small", loc="upper left")
    figure.suptitle(f"Does the transformer turn digits upright? {MODEL} {TRANSFORM} on {SET}, {result['data']}")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = side_by_side.training_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of each of the two trainings ({EPOCHS})")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "undo_rotation.json"
    if not args.plot:
        ministn.set_num_threads(args.threads)
        dataset = data.strokes.load(500, 200) if args.quick else data.load("mnist", args.data_dir)
        changes: dict[str, Any] = {"epochs": 1, "parameters": 60_000} if args.quick else {"epochs": args.epochs}
        arguments = sys.argv[1:] if argv is None else argv
        about = {
            "command": shlex.join(["python", "examples/benchmarks/undo_rotation.py", *arguments]),
            **records.code_version(),
            "environment": {**records.environment(), "threads": args.threads},
            "data": dataset.name,
            "network": f"{MODEL} {TRANSFORM} on {SET}",
            "recipe": {"name": "modern", **changes},
            "test_seed": TEST_SEED,
        }
        results = [train(dataset, smoothing, changes) for smoothing in SMOOTHING]
        side_by_side.write_json(path, {**about, "results": results})
    side_by_side.write_picture(path.with_suffix(".png"), picture(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
