"""Contact sheets of distorted MNIST: what a network has to read.

    python examples/distorted_mnist.py                # distorted_R.png, ..., distorted_P5.png in this folder
    python examples/distorted_mnist.py --seed 1       # the same digits, distorted anew

Each row has test digits of one class, distorted as in a test set of that seed. docs/distorted_mnist.md says how each
set is made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ministn import data, viz
from ministn.data import DISTORTIONS, distorted_test_set, distortions

COLUMNS = 16
TITLES = {
    "R": "turned by \N{MINUS SIGN}90 to 90 degrees",
    "RTS": "turned by \N{MINUS SIGN}45 to 45 degrees, scaled by 0.7 to 1.2, anywhere on 42 x 42 pixels",
    "P": "scaled by 0.75 to 1, then corners moved by N(0, 2.75 pixels)",
    "P5": "scaled by 0.75 to 1, then corners moved by N(0, 5 pixels)",
    "E": "scaled by 0.75 to 1, then 4 x 4 control points moved by N(0, 1.5 pixels)",
    "TC": "anywhere on 60 x 60 pixels, and six patches of 6 x 6 pixels of other digits",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="auto", choices=["auto", "mnist", "strokes"])
    parser.add_argument("--data-dir", type=Path, help="a folder with the MNIST files")
    parser.add_argument("--seed", type=int, default=0, help="of the distortions")
    parser.add_argument("--folder", type=Path, default=Path("."), help="for the pictures")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    dataset = data.load(args.data, args.data_dir)
    chosen = np.concatenate([np.flatnonzero(dataset.test_labels == digit)[:COLUMNS] for digit in range(10)])
    for name in [*DISTORTIONS, *distortions.VARIANTS]:
        distortion = distortions.get(name, dataset.train_images)
        images = distorted_test_set(dataset.test_images[chosen], distortion, args.seed)
        figure = viz.contact_sheet(
            images, dataset.test_labels[chosen], f"{name}: {TITLES[name]}", data=f"{dataset.name}, seed {args.seed}"
        )
        path = args.folder / f"distorted_{name}.png"
        figure.savefig(path)
        print(path)


if __name__ == "__main__":
    main()
