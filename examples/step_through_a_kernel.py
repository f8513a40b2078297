"""Step through a CUDA kernel without a GPU: what one thread reads and writes, line by line.

    python examples/step_through_a_kernel.py                                # one pixel of the spatial transformer
    python examples/step_through_a_kernel.py --thread 6                     # the pixel below
    python examples/step_through_a_kernel.py --kernel spatial_transform_backward_input
    python examples/step_through_a_kernel.py --family conv2d --order 1      # blocks and threads in descending order

The kernels are those that train on a GPU, `cuda.cu` of each family; the emulator of examples/cuda_emulator runs them on
small arrays. Numbers in the images say where they are: 0.23 is row 2, column 3.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from cuda_emulator import EmulationError, build, translate
from cuda_emulator.trace import Step, trace

from ministn.kernels import _cuda

FLOAT = np.float32


def image(height: int, width: int) -> np.ndarray:
    """(1, 1, height, width): 0.23 in row 2 and column 3."""
    rows, columns = np.indices((height, width))
    return (rows / 10 + columns / 100).astype(FLOAT)[None, None]


def affine_grid(cuda: Any) -> None:
    """Where a rotated output of 3 x 5 pixels looks."""
    theta = np.array([[[0.8, 0.6, 0], [-0.6, 0.8, 0]]], FLOAT)
    cuda.backward(cuda.forward(theta, 3, 5, False), False)


def grid_sample(cuda: Any) -> None:
    """Three points of an image."""
    points, options = np.array([[[[0, 0], [0.3, -0.5], [1, 1]]]], FLOAT), ("bilinear", "zeros", False)
    output = cuda.forward(image(4, 5), points, *options)
    cuda.backward(np.ones_like(output), image(4, 5), points, *options)


def spatial_transform(cuda: Any) -> None:
    """A rotated output of 3 x 5 pixels from an image of 4 x 5."""
    theta = np.array([[[0.8, 0.6, 0], [-0.6, 0.8, 0]]], FLOAT)
    output = cuda.forward(image(4, 5), theta, 3, 5, False)
    cuda.backward(np.ones_like(output), image(4, 5), theta, False)


def conv2d(cuda: Any) -> None:
    """An image of 4 x 5 and a filter of 2 x 2, by the plain kernels."""
    weight, bias, geometry = np.array([[[[1, 2], [3, 4]]]], FLOAT), np.array([0.5], FLOAT), ((1, 1), (0, 0), (1, 1))
    output = cuda.forward(image(4, 5), weight, bias, *geometry, tuned=False)
    cuda.backward(output, image(4, 5), weight, *geometry, tuned=False)


def max_pool2d(cuda: Any) -> None:
    """Windows of 2 x 2 on an image of 4 x 6."""
    output, taps = cuda.forward(image(4, 6), (2, 2), (2, 2), (0, 0), (2, 3))
    cuda.backward(output, taps, (2, 2), (2, 2), (0, 0), (4, 6))


def avg_pool2d(cuda: Any) -> None:
    """Windows of 2 x 2 on an image of 4 x 6."""
    output = cuda.forward(image(4, 6), (2, 2), (2, 2), (0, 0), True, (2, 3))
    cuda.backward(output, (2, 2), (2, 2), (0, 0), True, (4, 6))


FAMILIES = {
    family.__name__: family for family in (spatial_transform, affine_grid, grid_sample, conv2d, max_pool2d, avg_pool2d)
}


@contextlib.contextmanager
def launches_go_to(run: Callable[..., None]) -> Iterator[None]:
    """Within the block a launch calls ``run(package, kernel, grid, block, arguments, shared)``, with NumPy arrays."""

    def function(library: Any, package: str, dtype: Any, kernel: str) -> Callable[..., None]:
        return lambda grid, block, arguments, shared_mem: run(package, kernel, grid, block, arguments, shared_mem)

    before, _cuda._function = _cuda._function, function
    try:
        yield
    finally:
        _cuda._function = before


class Tracer:
    """Runs every kernel that is launched, and prints a thread of the first one of the name that is asked for."""

    def __init__(self, kernel: str | None, block: int, thread: int, order: int) -> None:
        self.wanted, self.block, self.thread, self.order = kernel, block, thread, order
        self.seen: list[str] = []
        self.found = False

    def run(
        self, package: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any, shared: int
    ) -> None:
        """A launch."""
        self.seen.append(name)
        source = _cuda.source(package)
        kernel = build(source, _cuda.options(FLOAT), "trace")[name]
        options = {"shared": shared, "order": self.order}
        if self.found or self.wanted not in (None, name):
            kernel(grid, block, *arguments, **options)
            return
        self.found = True
        steps = trace(kernel, grid, block, *arguments, at_block=self.block, at_thread=self.thread, **options)
        print(f"{name}: block {self.block} of {np.prod(grid)}, thread {self.thread} of {np.prod(block)}\n")
        for parameter, value in zip(kernel.parameters, arguments, strict=True):
            print(f"  {parameter} = {f'array of {value.shape}' if np.ndim(value) else value}")
        show(steps, translate.lines_by_place(source, translate.main_file(source) or ""))


def show(steps: list[Step], lines: dict[tuple[str, int], str]) -> None:
    """Each line of the source with what the thread does in it."""
    for places, group in itertools.groupby(steps, lambda step: step.places):
        (file, number), *callers = places
        called = "".join(f", called from {file}:{number}" for file, number in callers)
        print(f"\n{file}:{number}{called}\n  | {lines.get((file, number), '').strip()}")
        for step in group:
            print(f"      {described(step)}")
    if not steps:
        print("\n  This thread reads and writes nothing.")


def described(step: Step) -> str:
    """``reads U[0, 0, 2, 3] = 0.23``."""
    if step.kind in ("read", "write"):
        index = f"[{', '.join(map(str, step.index))}]" if step.index else ""
        where = " (shared memory)" if step.shared else ""
        return f"{step.kind + 's':6} {step.variable}{index} = {formatted(step.value)}{where}"
    if step.kind == "shuffle":
        return f"gets   {formatted(step.value)} from lane {step.lane}"
    if step.kind == "vote":
        return f"votes  with its warp: {step.value:#010x}"
    return f"waits  for its {step.kind.split()[0]}"


def formatted(value: Any) -> str:
    """Floating-point numbers with seven digits, as many as float32 has."""
    if isinstance(value, tuple):
        return f"({', '.join(map(formatted, value))})"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Prints the steps; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="spatial_transform")
    parser.add_argument("--kernel", help="by default the family's first")
    parser.add_argument("--block", type=int, default=0, help="which block of the grid, default 0")
    parser.add_argument("--thread", type=int, default=1, help="which thread of the block, default 1")
    parser.add_argument(
        "--order", type=int, default=0, help="0 ascending, 1 descending, else the seed of a random order"
    )
    options = parser.parse_args(arguments)
    tracer = Tracer(options.kernel, options.block, options.thread, options.order)
    try:
        with launches_go_to(tracer.run):
            FAMILIES[options.family](importlib.import_module(f"ministn.kernels.{options.family}.cuda"))
    except EmulationError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\nKernels of {options.family} here: {', '.join(dict.fromkeys(tracer.seen))}")
    if not tracer.found:
        print(f"there is no {options.kernel} among them", file=sys.stderr)
    return 0 if tracer.found else 1


if __name__ == "__main__":
    sys.exit(main())
