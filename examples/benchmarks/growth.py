"""How the time per image grows with the batch, the image, the channels and the threads, in ministn and in PyTorch.

    python examples/benchmarks/growth.py

Batch: a training step of the tutorial's network. Image: a convolution 8 -> 8 with 5 x 5 weights, and the spatial
transform of one channel. Channels: a convolution C -> C with 3 x 3 weights on 28 x 28 pixels. Threads: the training
step. Convolutions and transforms go forward and backward, with 64 images.

The first three have the most of the --threads; the last has each number from 1 up to that. Prints a table and writes
growth.json and growth.png, lines on logarithmic axes, to the folder.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import kernels
import side_by_side
import train_step
from side_by_side import MINISTN, PYTORCH, Case, Result

BATCH_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
IMAGE_SIZES = [28, 40, 56, 80, 112, 160, 224]
CHANNELS = [1, 2, 4, 8, 16, 32, 64]
PANELS = {
    "batch": "images in a batch (training step)",
    "image": "pixels along a side of the image",
    "channels": "channels (convolution)",
    "threads": "threads (training step)",
}


def convolution(F: Any, images: Any, weight: Any, bias: Any) -> Any:
    return F.conv2d(images, weight, bias)


def case(panel: str, line: str, position: int, images: int, of: Case) -> Case:
    """A point of a line: the work `of` another case, which goes through so many images."""
    sides = {side: of.sides[side] for side in (MINISTN, PYTORCH)}
    facts = {"panel": panel, "line": line, "position": position, "images": images}
    return Case(f"{panel} {position}, {line}", sides, facts=facts)


def training(panel: str, batch_size: int, position: int, source: train_step.Source) -> Case:
    (step,) = train_step.training_cases([("stn", batch_size, None)], source)
    return case(panel, "training step", position, batch_size, step)


def all_cases(source: train_step.Source) -> list[Case]:
    """Those with the most threads."""
    batch = kernels.BATCH
    cases = [training("batch", size, size, source) for size in BATCH_SIZES]
    for size in IMAGE_SIZES:
        arrays = functools.partial(kernels.random_arrays, (batch, 8, size, size), (8, 8, 5, 5), (8,))
        cases.append(case("image", "convolution", size, batch, kernels.gradient_case("", convolution, arrays)))
        arrays = functools.partial(kernels.images_and_transforms, (batch, 1, size, size))
        cases.append(case("image", "transform", size, batch, kernels.gradient_case("", kernels.warp, arrays)))
    for count in CHANNELS:
        arrays = functools.partial(kernels.random_arrays, (batch, count, 28, 28), (count, count, 3, 3), (count,))
        cases.append(case("channels", "convolution", count, batch, kernels.gradient_case("", convolution, arrays)))
    return cases


def race_all(args: Any, source: train_step.Source) -> list[Result]:
    """Every case with the most threads, and the training step also with each smaller number."""
    most = max(args.threads)
    cases = [case for case in all_cases(source) if not args.quick or case.facts["position"] <= 64]
    cases.append(training("threads", kernels.BATCH, most, source))
    args.threads = [most]
    results = side_by_side.run(args, cases, "growth")
    for count in range(1, most):
        fewer = training("threads", kernels.BATCH, count, source)
        if args.only in fewer.name:
            args.threads = [count]
            results += side_by_side.run(args, [fewer], "growth")
    return sorted(results, key=lambda result: list(PANELS).index(result.case.facts["panel"]))


def per_image(result: Result, side: str) -> side_by_side.Spread:
    """Microseconds."""
    spread, images = result.time(side), result.case.facts["images"]
    return side_by_side.Spread(*(1e6 * seconds / images for seconds in dataclasses.astuple(spread)))


def results_table(results: list[Result]) -> str:
    rows = [
        [
            result.case.name,
            str(result.threads),
            *(side_by_side.digits(per_image(result, side).median) for side in (MINISTN, PYTORCH)),
            side_by_side.times(result.ratio()),
        ]
        for result in results
    ]
    header = ["", "threads", "ministn us an image", "PyTorch us an image", "times faster"]
    return side_by_side.table(header, rows)


def picture(results: list[Result], setting: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(10, 7.5), layout="constrained", dpi=120)
    for axes, (panel, label) in zip(figure.subplots(2, 2).ravel(), PANELS.items(), strict=True):
        here = [result for result in results if result.case.facts["panel"] == panel]
        lines = dict.fromkeys(result.case.facts["line"] for result in here)
        for line, style in zip(lines, ("o-", "s:"), strict=False):
            points = sorted(
                (result for result in here if result.case.facts["line"] == line),
                key=lambda result: result.case.facts["position"],
            )
            positions = [result.case.facts["position"] for result in points]
            for side in (MINISTN, PYTORCH):
                spreads = [per_image(result, side) for result in points]
                name = f"{side}, {line}" if len(lines) > 1 else side
                colour = side_by_side.COLOURS[side]
                axes.plot(positions, [spread.median for spread in spreads], style, color=colour, ms=4, label=name)
                low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
                axes.fill_between(positions, low, high, color=colour, alpha=0.25, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel=label, ylabel="µs per image")
        positions = sorted({result.case.facts["position"] for result in here})
        axes.set_xticks(positions, [str(position) for position in positions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        if here:
            axes.legend(fontsize="small")
    figure.suptitle(f"{setting['processor']}, threads: {setting['threads']}", fontsize="medium")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="a folder with the MNIST files")
    args = parser.parse_args(argv)
    side_by_side.need_torch()
    environment = side_by_side.environment(args.threads)
    setting = {"command": "growth.py", "rounds": args.rounds, "threads": max(args.threads), **environment}
    source = train_step.QUICK_DIGITS if args.quick else args.data_dir
    setting["data"] = train_step.load_data(source).name
    print(side_by_side.describe(setting), f"data: {setting['data']}", sep="\n")
    results = race_all(args, source)
    print(results_table(results))
    side_by_side.write_json(
        args.folder / "growth.json", {"setting": setting, "results": [result.as_json() for result in results]}
    )
    side_by_side.write_picture(args.folder / "growth.png", picture(results, setting))


if __name__ == "__main__":
    main()
