"""One convolution five times over: what each step from plain NumPy to the kernel that ministn uses is worth.

    python examples/benchmarks/convolution_ladder.py

1. NumPy: `ministn.kernels.conv2d.reference`, which sums over windows with einsum.
2. Naive loops: the equation as seven nested loops in Numba, images in NCHW memory.
3. Batch-last loops: the same seven loops, but the innermost goes over the images, which lie side by side in memory, so
   that the compiler makes vectors of it.
4. The kernel: `ministn.kernels.conv2d.cpu`, which also keeps its sums in registers.
5. PyTorch.

All of them in float32, on the same numbers; the results are compared before anything is timed. Prints a table and
writes convolution_ladder.json and convolution_ladder.png to the folder.
"""

from __future__ import annotations

import functools
from typing import Any

import kernels
import numpy as np
import side_by_side
from numba import njit, prange
from side_by_side import PYTORCH, Case, Result, Work

NUMPY, NAIVE, BATCH_LAST, KERNEL = "NumPy", "naive loops", "batch-last loops", "ministn"
SIDES = [NUMPY, NAIVE, BATCH_LAST, KERNEL, PYTORCH]
CONVOLUTIONS = [(1, 8, 7, 28), (10, 20, 5, 12)]  # two of the tutorial's: channels, filters, kernel, image size


# --- the rungs ----------------------------------------------------------------------------------------------------


@njit(parallel=True)
def naive(x, w, b, y):
    """y[n, o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] x[n, c, i + u, j + v]; an image for each iteration."""
    (N, O, OH, OW), (C, KH, KW) = y.shape, w.shape[1:]  # noqa: E741 (the axis of output channels)
    for n in prange(N):
        for o in range(O):
            for i in range(OH):
                for j in range(OW):
                    total = b[o]
                    for c in range(C):
                        for u in range(KH):
                            for v in range(KW):
                                total += w[o, c, u, v] * x[n, c, i + u, j + v]
                    y[n, o, i, j] = total


@njit(parallel=True)
def batch_last(x, w, b, y):
    """The same with the axis of the images last and innermost; an output channel and row for each iteration.

    All images of a pixel meet the same weight: one multiplication of a vector by a number serves 16 of them.
    """
    (O, OH, OW, N), (C, KH, KW) = y.shape, w.shape[1:]  # noqa: E741
    for row in prange(O * OH):
        o, i = row // OH, row % OH
        for j in range(OW):
            total = y[o, i, j]
            total[:] = b[o]
            for c in range(C):
                for u in range(KH):
                    for v in range(KW):
                        weight, pixels = w[o, c, u, v], x[c, i + u, j + v]
                        for n in range(N):
                            total[n] += weight * pixels[n]


# --- what is timed ------------------------------------------------------------------------------------------------


def numpy_side(geometry: tuple[int, ...]) -> Work:
    from ministn.kernels.conv2d import reference

    x, weight, bias, _ = kernels.convolution_arrays(*geometry)
    return lambda: [reference.forward(x, weight, bias, (1, 1), (0, 0), (1, 1))]


def naive_side(geometry: tuple[int, ...]) -> Work:
    x, weight, bias, like_y = kernels.convolution_arrays(*geometry)
    y = np.empty_like(like_y)

    def work() -> list:
        naive(x, weight, bias, y)
        return [y]

    return work


def batch_last_side(geometry: tuple[int, ...]) -> Work:
    x, weight, bias, like_y = kernels.convolution_arrays(*geometry)
    x = np.ascontiguousarray(np.moveaxis(x, 0, -1))
    y = np.empty_like(np.moveaxis(like_y, 0, -1), order="C")

    def work() -> list:
        batch_last(x, weight, bias, y)
        return [np.moveaxis(y, -1, 0)]

    return work


def all_cases() -> list[Case]:
    cases = []
    for channels, filters, kernel, size in CONVOLUTIONS:
        geometry = (channels, filters, kernel, size, 0, kernels.BATCH)
        makers = [numpy_side, naive_side, batch_last_side]
        sides = {side: functools.partial(make, geometry) for side, make in zip(SIDES, makers, strict=False)}
        sides[KERNEL] = functools.partial(kernels.ministn_convolution, "forward", geometry)
        sides[PYTORCH] = functools.partial(kernels.torch_convolution, "forward", geometry)
        flop = 2.0 * kernels.BATCH * filters * channels * kernel**2 * (size - kernel + 1) ** 2
        cases.append(Case(f"conv {channels}->{filters} k{kernel} on {size}x{size}, forward", sides, flop))
    return cases


# --- what comes out -----------------------------------------------------------------------------------------------


def results_table(results: list[Result], setting: dict[str, Any]) -> str:
    rows = []
    for result in results:
        for below, side in zip([None, *SIDES], SIDES, strict=False):
            rows.append(
                [
                    result.case.name,
                    str(result.threads),
                    side,
                    side_by_side.milliseconds(result.time(side)),
                    "" if below is None else side_by_side.times(result.ratio(side, below)),
                    f"{result.gflops(side):.1f}",
                    f"{100 * result.gflops(side) / kernels.peak(result, setting):.1f} %",
                ]
            )
    header = ["", "threads", "rung", "ms", "times faster than the one above", "GFLOP/s", "of FMA peak"]
    return side_by_side.table(header, rows)


def picture(results: list[Result], setting: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1 + 1.8 * len(results)), layout="constrained", dpi=120)
    columns = len({result.threads for result in results})
    panels = figure.subplots(len(results) // columns, columns, squeeze=False, sharex="col").T.ravel()
    colours = ["#999999", "#E69F00", "#56B4E9", side_by_side.COLOURS[KERNEL], side_by_side.COLOURS[PYTORCH]]
    for axes, result in zip(panels, results, strict=True):
        speeds = [result.gflops(side) for side in SIDES]
        most = kernels.peak(result, setting)
        bars = axes.barh(SIDES, speeds, color=colours)
        axes.bar_label(bars, [f"{speed:.1f} ({100 * speed / most:.0f} %)" for speed in speeds], padding=4)
        axes.axvline(most, color="black", ls=":", lw=1)
        axes.set(xlim=(0, 1.4 * most), ylim=(len(SIDES) - 0.5, -0.5))
        axes.set_title(f"{result.case.name}, threads: {result.threads}", fontsize="medium")
    for axes in figure.axes:
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("GFLOP/s; dotted: the FMA peak")
    return figure


def main(argv: list[str] | None = None) -> None:
    args = side_by_side.parser(__doc__).parse_args(argv)
    side_by_side.need_torch()
    environment = side_by_side.environment(args.threads, fma=True)
    setting = {"command": "convolution_ladder.py", "rounds": args.rounds, "batch": kernels.BATCH, **environment}
    print(side_by_side.describe(setting))
    results = side_by_side.run(args, all_cases(), "ladder")
    print(results_table(results, setting))
    rows = [result.as_json() for result in results]
    side_by_side.write_json(args.folder / "convolution_ladder.json", {"setting": setting, "results": rows})
    side_by_side.write_picture(args.folder / "convolution_ladder.png", picture(results, setting))


if __name__ == "__main__":
    main()
