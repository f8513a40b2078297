"""What the default recipe reaches: test accuracy on MNIST of each network, over some seeds.

    python examples/benchmarks/accuracy.py --models stn cnn stn-coordconv --seeds 0 1 2

Every run is one of `examples/train_mnist.py`. After each, its figures are added to accuracy.json in --folder (runs that
are there already are not repeated) and the table is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_mnist

from ministn import records


def train(model, seed, arguments):
    """The last row of the run's metrics, and where it ran."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = ["--model", model, "--seed", str(seed), "--data", "mnist", "--out", str(out)]
        code = train_mnist.main([*options, *arguments])
        if code:
            sys.exit(code)
        rows = list(csv.DictReader((out / "metrics.csv").open()))
        settings = json.loads((out / "config.json").read_text())
    return {
        "model": model,
        "seed": seed,
        "test_accuracy": float(rows[-1]["test_accuracy"]),
        "epochs": len(rows),
        "training_seconds": sum(float(row["seconds"]) for row in rows),
        "threads": settings["threads"],
        "data": settings["data_name"],
        "environment": settings["environment"],
    }


def table(results):
    """One line per model: mean, lowest and highest accuracy, and the time of the training loop."""
    lines = ["| network | seeds | test accuracy | lowest | highest | training |", "|---|---|---|---|---|---|"]
    for model in dict.fromkeys(result["model"] for result in results):
        runs = [result for result in results if result["model"] == model]
        accuracies = [100 * run["test_accuracy"] for run in runs]
        seconds = statistics.median(run["training_seconds"] for run in runs)
        seeds = ", ".join(str(run["seed"]) for run in runs)
        lines.append(
            f"| {model} | {seeds} | {statistics.mean(accuracies):.2f} % | {min(accuracies):.2f} % "
            f"| {max(accuracies):.2f} % | {seconds:.0f} s |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(train_mnist.MODELS), choices=list(train_mnist.MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("."), help="for accuracy.json")
    args, rest = parser.parse_known_args(argv)  # the rest is train_mnist's
    path = args.folder / "accuracy.json"
    results = json.loads(path.read_text()) if path.exists() else []
    for seed in args.seeds:
        for model in args.models:
            if not any((result["model"], result["seed"]) == (model, seed) for result in results):
                results.append(train(model, seed, rest))
                records.write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
                print(table(results), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
