"""How long ministn and PyTorch take to train: steps, memory, and the time to the first step.

    python examples/benchmarks/train_step.py                # both numbers of threads, all networks: some minutes
    python examples/benchmarks/train_step.py --quick        # does it run?

A step is all that training does for a batch: gather and normalise the images, forward with dropout, loss, backward,
SGD, and the sums for loss and accuracy. ministn's is `training.Trainer` fed by a `data.DataLoader`. PyTorch's is what
its users write when they want speed: the whole data set as one normalised tensor in memory and a shuffled index, which
is much faster than its own DataLoader. See `side_by_side` for how the two are compared.

Prints tables and writes train_step.json and train_step.png to the folder.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import MINISTN, PYTORCH, Case, Result, Work, Worker

# Where the digits come from: a folder with the MNIST files, None for MNIST wherever it is found and drawn digits if it
# is not, or a number of drawn digits.
Source = Path | int | None

LEARNING_RATE, DROPOUT, EPOCH = 0.01, 0.5, 60_000  # the tutorial's; images in an epoch of MNIST
QUICK_DIGITS = 2000  # drawn ones, for --quick

# Network, batch size, and how many times faster than PyTorch it shall be at least and is meant to be, by threads.
RACES: list[tuple[str, int, dict[int, tuple[float, float]]]] = [
    ("stn", 64, {1: (3, 5), 2: (4, 6)}),
    ("stn", 50, {2: (3, 5)}),
    ("stn", 100, {2: (3, 5)}),
    ("stn", 256, {2: (3, 5)}),
    ("cnn", 64, {2: (4, 6)}),
    ("stn-coordconv", 64, {2: (4, 6)}),
]


# --- the two sides ------------------------------------------------------------------------------------------------


def ministn_training(network: str, batch_size: int, source: Source = None) -> Work:
    """One step of training with ministn, to be called again and again."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    from ministn import data, manual_seed, models, optim, training

    threadpool_limits(limits=1, user_api="blas")  # as Trainer.fit sets them
    np.seterr(over="ignore", invalid="ignore")

    manual_seed(0)
    model = {
        "stn": models.MnistSTN,
        "stn-coordconv": functools.partial(models.MnistSTN, coord_conv=True),
        "cnn": models.MnistCNN,
    }[network](dropout=DROPOUT)
    dataset = load_data(source)
    loader = data.DataLoader(
        dataset.train_images, dataset.train_labels, batch_size, shuffle=True, mean=dataset.mean, std=dataset.std
    )
    trainer = training.Trainer(model, optim.SGD(model.parameters(), lr=LEARNING_RATE), loader, test_loader=None)

    def batches() -> Any:
        while True:
            yield from loader

    endless = batches()

    def step() -> None:
        images, labels = next(endless)
        trainer.train_step(images, labels)

    return step


def torch_training(network: str, batch_size: int, source: Source = None, frugal: bool = False) -> Work:
    """One step of training with PyTorch, to be called again and again.

    With `frugal` the images stay bytes, as they do in ministn, and each batch is normalised by itself. That is slower
    but takes 140 MB less.
    """
    torch = side_by_side.import_torch()
    import torch.nn.functional as F
    import torch_stn

    torch.manual_seed(0)
    twins = {"stn": torch_stn.TorchSTN, "stn-coordconv": torch_stn.TorchCoordSTN, "cnn": torch_stn.TorchCNN}
    model = twins[network](dropout=DROPOUT)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    dataset = load_data(source)

    def normalise(images: Any) -> Any:
        return images.float().div_(255).sub_(dataset.mean).div_(dataset.std)

    all_images = torch.from_numpy(dataset.train_images)[:, None]
    all_images = all_images if frugal else normalise(all_images)
    all_labels = torch.from_numpy(dataset.train_labels)

    def batches() -> Any:
        while True:
            order = torch.randperm(len(all_images))
            for chosen in order.split(batch_size):
                images = all_images[chosen]
                yield normalise(images) if frugal else images, all_labels[chosen]

    endless, seen = batches(), {"images": 0, "loss": 0.0, "correct": 0}

    def step() -> None:
        images, labels = next(endless)
        if not model.training:
            model.train()
        optimizer.zero_grad()
        log_probabilities = model(images)
        loss = F.nll_loss(log_probabilities, labels)
        loss.backward()
        optimizer.step()
        seen["images"] += len(labels)
        seen["loss"] += loss.item() * len(labels)
        seen["correct"] += int((log_probabilities.argmax(dim=1) == labels).sum())

    return step


@functools.cache
def load_data(source: Source) -> Any:
    """Once for each process."""
    from ministn import data

    if isinstance(source, int):
        return data.strokes.load(train_size=source, test_size=1)
    return data.load("auto", source)


def training_cases(races: list[tuple[str, int, Any]], source: Source = None) -> list[Case]:
    return [
        Case(
            f"{network}, batch {batch_size}",
            {
                MINISTN: functools.partial(ministn_training, network, batch_size, source),
                PYTORCH: functools.partial(torch_training, network, batch_size, source),
            },
            facts={"network": network, "batch_size": batch_size},
        )
        for network, batch_size, _ in races
    ]


# --- memory and waiting -------------------------------------------------------------------------------------------


def peak_memory(steps: int, threads: int, source: Source) -> dict[str, float | None]:
    """The most memory, in MB, that a fresh process holds while it trains the STN for some steps."""
    sides = {
        MINISTN: functools.partial(ministn_training, "stn", 64, source),
        PYTORCH: functools.partial(torch_training, "stn", 64, source, frugal=True),
        f"{PYTORCH}, the data as one tensor": functools.partial(torch_training, "stn", 64, source),
    }
    found = {}
    for side, make in sides.items():
        with Worker(threads) as worker:
            worker.ask(side_by_side.prepare, make)
            worker.ask(side_by_side.repeat, steps)
            size = worker.ask(side_by_side.peak_memory)
            found[side] = None if size is None else size / 1e6
    return found


# train_mnist as it is, but for the end: it stops when the first step is done.
FIRST_STEP = """
import os, sys
sys.path.insert(0, {examples!r})
import train_mnist
train_mnist.Run.on_step = lambda run, trainer: os._exit(0)
sys.exit(train_mnist.main({options!r}) or "it ended before the first step")
"""
TORCH_FIRST_STEP = """
import sys
sys.path[:0] = {paths!r}
import train_step
train_step.torch_training("stn", 64, {data_dir!r})()
"""


def waiting_times(repeats: int, threads: int, data_dir: Path | None) -> dict[str, list[float]]:
    """Seconds that a user waits, each time in a fresh process."""
    examples = Path(__file__).resolve().parents[1]
    data_dir = data_dir and data_dir.resolve()
    waits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def first_step(cache: str, number: int = 0) -> float:
            options = ["--threads", str(threads), "--out", str(Path(folder, f"run-{cache}-{number}"))]
            options += ["--data-dir", str(data_dir)] if data_dir else []
            program = FIRST_STEP.format(examples=str(examples), options=options)
            return _wall_seconds(program, threads, {"NUMBA_CACHE_DIR": str(Path(folder, cache))})

        empty = [first_step(f"cache-{number}") for number in range(min(repeats, 3))]
        waits["train_mnist.py to the first step, empty kernel cache"] = empty
        waits["train_mnist.py to the first step, warm kernel cache"] = [
            first_step("cache-0", 1 + number) for number in range(repeats)
        ]
    if side_by_side.has_torch():
        program = TORCH_FIRST_STEP.format(
            paths=[str(examples / "benchmarks"), str(examples.parent)], data_dir=data_dir and str(data_dir)
        )
        waits["PyTorch to the first step"] = [_wall_seconds(program, threads) for _ in range(repeats)]
    for library in ["ministn", "numpy", *(["torch"] if side_by_side.has_torch() else [])]:
        program = f"import time; t = time.perf_counter(); import {library}; print(time.perf_counter() - t)"
        waits[f"import {library}"] = [float(_run_python(program, threads)) for _ in range(repeats)]
    return waits


def _wall_seconds(program: str, threads: int, variables: dict[str, str] | None = None) -> float:
    """From the start of Python to its end."""
    start = time.perf_counter()
    _run_python(program, threads, variables)
    return time.perf_counter() - start


def _run_python(program: str, threads: int, variables: dict[str, str] | None = None) -> str:
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in names}, **(variables or {})}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    return done.stdout


# --- what comes out -----------------------------------------------------------------------------------------------


def goal(result: Result) -> tuple[float, float] | None:
    """How many times faster than PyTorch it shall be at least, and is meant to be."""
    facts = result.case.facts
    for network, batch_size, goals in RACES:
        if (network, batch_size) == (facts["network"], facts["batch_size"]):
            return goals.get(result.threads)
    return None


def epoch_seconds(result: Result, side: str) -> float:
    return result.time(side).median * EPOCH / result.case.facts["batch_size"]


def results_table(results: list[Result]) -> str:
    rows = []
    for result in results:
        goals = goal(result)
        rows.append(
            [
                result.case.name,
                str(result.threads),
                *(side_by_side.milliseconds(result.time(side)) for side in (MINISTN, PYTORCH)),
                *(f"{epoch_seconds(result, side):.2f}" for side in (MINISTN, PYTORCH)),
                side_by_side.times(result.ratio()),
                *side_by_side.verdict(result.ratio().median, goals),
            ]
        )
    header = ["training", "threads", "ministn ms a step", "PyTorch ms a step", "ministn s an epoch"]
    header += ["PyTorch s an epoch", "times faster", "at least", "aim", "reached"]
    return side_by_side.table(header, rows)


def picture(results: list[Result], setting: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.45 * len(results)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for row, result in enumerate(results):
        for shift, side in ((-0.2, MINISTN), (0.2, PYTORCH)):
            scale = EPOCH / result.case.facts["batch_size"]
            spread = result.time(side)
            error = [[scale * (spread.median - spread.low)], [scale * (spread.high - spread.median)]]
            axes.barh(
                *(row + shift, scale * spread.median, 0.38),
                **{"xerr": error, "color": side_by_side.COLOURS[side], "ecolor": "black", "capsize": 2},
                label=side if row == 0 else None,
            )
        axes.annotate(
            f" {result.ratio().median:.1f} x",
            (epoch_seconds(result, MINISTN), row - 0.2),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    threads = ["1 thread" if result.threads == 1 else f"{result.threads} threads" for result in results]
    labels = [f"{result.case.name}, {count}" for result, count in zip(results, threads, strict=True)]
    axes.set_yticks(range(len(results)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds for an epoch of 60,000 images (shorter is better)\n{setting['processor']}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="a folder with the MNIST files")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each time to the first step")
    parser.add_argument("--steps-only", action="store_true", help="leave out memory and first steps")
    args = parser.parse_args(argv)
    side_by_side.need_torch()
    setting = {"command": "train_step.py", "rounds": args.rounds, **side_by_side.environment(args.threads)}
    source = QUICK_DIGITS if args.quick else args.data_dir
    setting["data"] = load_data(source).name
    print(side_by_side.describe(setting), f"data: {setting['data']}", sep="\n")

    # Long turns: training goes on and on, and a process that was asleep needs some steps to fill the caches again.
    results = side_by_side.run(args, training_cases(RACES, source), "training", turn=0.3)
    print(results_table(results), flush=True)
    content = {"setting": setting, "results": []}
    for result in results:
        seconds = {side: epoch_seconds(result, side) for side in (MINISTN, PYTORCH)}
        content["results"].append({**result.as_json(), "seconds_per_epoch": seconds, "goal": goal(result)})

    if not args.steps_only:
        threads = max(args.threads)
        content["peak_memory_mb"] = peak_memory(20 if args.quick else 200, threads, source)
        waits = waiting_times(1 if args.quick else args.repeats, threads, args.data_dir)
        content["seconds_to_wait"] = {what: statistics.median(seconds) for what, seconds in waits.items()}
        for title, unit, figures in (
            (f"peak memory of a training, threads: {threads}", "MB", content["peak_memory_mb"]),
            (f"from the start of a process (medians), threads: {threads}", "s", content["seconds_to_wait"]),
        ):
            rows = [[what, "unknown" if value is None else f"{value:.3g}"] for what, value in figures.items()]
            print("\n" + side_by_side.table([title, unit], rows), flush=True)
    side_by_side.write_json(args.folder / "train_step.json", content)
    side_by_side.write_picture(args.folder / "train_step.png", picture(results, setting))


if __name__ == "__main__":
    main()
