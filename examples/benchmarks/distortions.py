"""How long distorted MNIST takes to make, and what part of training that is.

    python examples/benchmarks/distortions.py                          # a minute
    python examples/benchmarks/distortions.py --model CNN --batch-size 64
    python examples/benchmarks/distortions.py --quick                  # does it run?

For each set of `ministn.data.distortions`, and for the digits as they are: how many images the distortion makes in a
second, drawing what is random included; how long a whole batch takes (gather, distort, normalise, lay out); how long a
training step takes for it; and the share that the batch has of both. Batches and steps are made in turn, as in
training, and the medians are given. Before the clock starts, each has run and is compiled. A load (load_before) of more
than 0.5 means that something else was running, and that the figures are not to be trusted.

Prints a table and writes distortions.json to the folder.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np
import side_by_side

from ministn import data, manual_seed, models, optim, records, set_num_threads, training

PLAIN = "none"


def measure(name: str, dataset: Any, model: str, batch_size: int, steps: int, images: int) -> dict[str, Any]:
    """Times in seconds, of batches and steps the medians."""
    distortion = None if name == PLAIN else data.distortions.get(name, dataset.train_images)
    result: dict[str, Any] = {"set": name, "model": model, "batch_size": batch_size}
    if distortion is not None:
        chosen, generator = dataset.train_images[:images], np.random.default_rng(0)
        parts = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
        distortion(parts[0], generator)
        start = time.perf_counter()
        for part in parts:
            distortion(part, generator)
        result["distorted_images_per_second"] = len(chosen) / (time.perf_counter() - start)

    manual_seed(0)
    loader = data.DataLoader(
        dataset.train_images,
        dataset.train_labels,
        batch_size,
        mean=dataset.mean,
        std=dataset.std,
        drop_last=True,
        augment=distortion,
    )
    transform = "affine" if model.startswith("ST-") else None
    network = models.table1_model(model, transform, canvas=loader.image_shape[0])
    trainer = training.Trainer(network, optim.SGD(network.parameters(), lr=0.01), loader, test_loader=None)
    batches, making, learning = iter(loader), [], []
    for step in range(2 + steps):
        start = time.perf_counter()
        digits, labels = next(batches)
        made = time.perf_counter()
        trainer.train_step(digits, labels)
        if step >= 2:
            making.append(made - start)
            learning.append(time.perf_counter() - made)
    result["batch_seconds"], result["step_seconds"] = statistics.median(making), statistics.median(learning)
    result["share"] = result["batch_seconds"] / (result["batch_seconds"] + result["step_seconds"])
    return result


def table(results: list[dict[str, Any]]) -> str:
    rows = []
    for result in results:
        rate = result.get("distorted_images_per_second")
        rows.append(
            [
                result["set"],
                str(result["threads"]),
                "" if rate is None else f"{rate:,.0f}",
                "" if rate is None else f"{60_000 / rate:.2f} s",
                f"{1e3 * result['batch_seconds']:.2f} ms",
                f"{1e3 * result['step_seconds']:.1f} ms",
                f"{100 * result['share']:.1f} %",
            ]
        )
    header = ["set", "threads", "distorted images a second", "60,000 of them", "a batch", "a step", "the batch's share"]
    return side_by_side.table(header, rows)


def main(argv: list[str] | None = None) -> None:
    from threadpoolctl import threadpool_limits

    parser = side_by_side.parser(__doc__)
    parser.add_argument("--model", default="ST-CNN", choices=models.distorted_mnist.MODELS, help="of table1_model")
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    threadpool_limits(limits=1, user_api="blas")  # as Trainer.fit sets them
    dataset = data.strokes.load(2000, 1) if args.quick else data.load()
    setting, results = {**records.environment(), "processors": os.cpu_count(), "load_before": os.getloadavg()[0]}, []
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    steps, images = (2, 500) if args.quick else (args.rounds, 60_000)
    for threads in args.threads:
        set_num_threads(threads)
        for name in [PLAIN, *data.DISTORTIONS]:
            if args.only in name:
                result = measure(name, dataset, args.model, args.batch_size, steps, images)
                results.append({**result, "threads": threads})
    print(f"{dataset.name}, {args.model}, batches of {args.batch_size}\n\n{table(results)}")
    side_by_side.write_json(
        args.folder / "distortions.json", {"data": dataset.name, "environment": setting, "results": results}
    )


if __name__ == "__main__":
    main()
