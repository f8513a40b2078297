"""Sample with millions of grids that nobody would draw, in memory that ends where the arrays end.

    python examples/reliability/fuzz_numbers.py --grids 3000000

Every image of a batch has a theta, or a grid, of its own kind: around the identity, so large that the points leave
float32, infinite, NaN, all zeros, denormal, or exactly on borders and pixels. A library laid under the process
(guarded_memory.c, Linux and a C compiler) closes the page behind each array, in every second round the page before it:
a read or a write outside is a segmentation fault, in vector instructions too, which no bounds check of Numba's sees.

What comes out must come from the image: bilinear and nearest samples lie between 0 and its largest value or are NaN.
A batch with one ordinary image among the others must give that image's numbers to the bit.

Writes reliability-numbers.json to the folder.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).with_name("guarded_memory.c")
MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
EXTREMES = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 2.0**24, 2.0**31, 2.0**63, 1e20, 3e38, -3e38, np.inf, -np.inf, np.nan]


def compiled_guard(folder: str | Path) -> Path | None:
    """The library of guarded_memory.c, or None without a C compiler or on another system than Linux."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "g++", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        return None
    library = Path(folder) / "guarded_memory.so"
    command = [compiler, "-x", "c", "-O2", "-shared", "-fPIC", "-w", str(SOURCE), "-o", str(library)]
    return library if subprocess.run(command, capture_output=True).returncode == 0 else None


known: set[tuple[Any, ...]] = set()  # calls for which everything is compiled


def extreme(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of all sizes; each first index has its own mixture of kinds."""
    values = np.empty(shape, dtype)
    for n in range(len(values)):
        kind = random.integers(5)
        if kind == 0:
            values[n] = random.standard_normal(shape[1:])
        elif kind == 1:  # of every magnitude
            with np.errstate(over="ignore", under="ignore"):
                values[n] = (random.standard_normal(shape[1:]) * 10.0 ** random.uniform(-45, 39, shape[1:])).astype(
                    dtype
                )
        elif kind == 2:
            values[n] = random.choice(EXTREMES, shape[1:]).astype(dtype)
        elif kind == 3:  # an ordinary one with one number spoilt
            values[n] = random.uniform(-1, 1, shape[1:])
            values[n].flat[random.integers(values[n].size)] = random.choice(EXTREMES)
        else:  # exactly on pixels, on their borders, just beside
            steps = random.integers(-9, 10, shape[1:]) / random.integers(1, 9)
            values[n] = (
                np.nextafter(steps.astype(dtype), dtype(random.choice([-9, 9]))) if random.random() < 0.5 else steps
            )
    return values


def sampled(random: np.random.Generator, guard: Any, side: int) -> int:
    """One call of each sampler, forward and backward; how many grids it went through."""
    import ministn.functional as F
    from ministn import Tensor

    dtype = (np.float32, np.float64)[random.integers(2)]
    count, channels = int(random.choice([1, 3, 16, 37, 64])), int(random.choice([1, 2, 3]))
    height, width = (int(n) for n in random.integers(1, 9, 2))
    out_height, out_width = (int(n) for n in random.integers(1, 9, 2))
    align = bool(random.integers(2))
    images = random.uniform(-1, 1, (count, channels, height, width)).astype(dtype)
    images = images if random.integers(2) else np.moveaxis(np.ascontiguousarray(np.moveaxis(images, 0, -1)), -1, 0)
    with np.errstate(all="ignore"):
        theta, homography = extreme(random, (count, 2, 3), dtype), extreme(random, (count, 3, 3), dtype)
        grid = extreme(random, (count, out_height, out_width, 2), dtype)
        splines = extreme(random, (count, 4, 2), dtype)
    ordinary = int(random.integers(count))
    theta[ordinary] = random.standard_normal((2, 3))
    grid[ordinary] = random.uniform(-1.5, 1.5, grid.shape[1:])
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float64)
    size = (count, channels, out_height, out_width)
    mode, padding = MODES[random.integers(3)], PADDINGS[random.integers(3)]

    def run(name: str, arrays: tuple[np.ndarray, ...], function: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        options = (name, mode, padding) if name == "grid_sample" else (name,)
        kind = (*options, dtype, len(arrays[0]), *(array.flags.c_contiguous for array in arrays))
        guard(side if kind in known else 0)  # compiling takes more blocks than there can be guards
        inputs = [Tensor(array.copy("K"), True) for array in arrays]  # copies, whose memory is guarded
        result = function(*inputs)
        result.backward(np.ones(result.shape, result.dtype))
        guard(0)
        if kind not in known:
            known.add(kind)
            return run(name, arrays, function)
        return result.data, [tensor.grad.data for tensor in inputs]

    with np.errstate(all="ignore"):
        for name, function, parameters in (
            ("spatial_transform", lambda x, t: F.spatial_transform(x, t, size[2:], align), theta),
            ("grid_sample", lambda x, g: F.grid_sample(x, g, mode, padding, align), grid),
        ):
            output, gradients = run(name, (images, parameters), function)
            bound = np.abs(images).max() * (4 if mode == "bicubic" and parameters is grid else 1) * (1 + 1e-5)
            assert not (np.abs(output) > bound).any(), f"a sample of {np.nanmax(np.abs(output))}, from where?"
            one = slice(ordinary, ordinary + 1)
            alone, gradients_alone = run(name, (images[one], parameters[one]), function)
            for whole, single in zip((output, *gradients), (alone, *gradients_alone), strict=True):
                tolerance = 1e-4 if dtype == np.float32 else 1e-10
                assert np.allclose(whole[one], single, tolerance, tolerance), "an image depends on the others"
        for name, function, parameters in (
            ("affine_grid", lambda t: F.affine_grid(t, size, align), theta),
            ("projective_grid", lambda t: F.projective_grid(t, size, align), homography),
            ("thin_plate_spline_grid", lambda t: F.thin_plate_spline_grid(t, corners, size, align), splines),
        ):
            run(name, (parameters,), function)
    return 5 * count


def run_guarded(options: argparse.Namespace) -> None:
    """The rounds themselves, in a process that has the library beneath it."""
    library = ctypes.CDLL(None)
    guard = library.guard if hasattr(library, "guard") else (lambda side: None)
    if hasattr(library, "guarded_blocks"):
        library.guarded_blocks.restype = ctypes.c_size_t
    grids, rounds = options.done, options.first
    while grids < options.grids:
        print(json.dumps({"round": rounds, "grids": grids}), flush=True)
        grids += sampled(np.random.default_rng([options.seed, rounds]), guard, 1 if rounds % 2 else -1)
        rounds += 1
        if hasattr(library, "guarded_blocks") and library.guarded_blocks() > 4_000_000:
            break  # addresses run out: the next process goes on
    print(json.dumps({"round": rounds, "grids": grids}), flush=True)


def fuzz(grids: int, seed: int = 0, guarded: bool = True) -> dict[str, Any]:
    """Go through so many grids, in as many processes as it takes; AssertionError with the round that fails.

    Returns
    -------
    dict
        ``"grids"``, ``"rounds"``, and ``"guarded"``: whether memory was.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = compiled_guard(folder) if guarded else None
        environment = {**os.environ, **({"LD_PRELOAD": str(library)} if library else {})}
        state = {"round": 0, "grids": 0}
        while state["grids"] < grids:
            command = [sys.executable, __file__, "--child", "--grids", str(grids), "--seed", str(seed)]
            command += ["--first", str(state["round"]), "--done", str(state["grids"])]
            result = subprocess.run(command, env=environment, capture_output=True, text=True)
            if result.stdout:
                state = json.loads(result.stdout.splitlines()[-1])
            if result.returncode:
                raise AssertionError(
                    f"round {state['round']} of seed {seed} ended with {result.returncode}: {result.stderr[-2000:]}"
                )
    return {"grids": state["grids"], "rounds": state["round"], "guarded": library is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    for internal in ("--first", "--done"):
        parser.add_argument(internal, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_guarded(options)
        return
    from ministn import records  # only here: a child loads ministn with the guard below it

    options.out.mkdir(parents=True, exist_ok=True)  # before the work
    start = time.perf_counter()
    result = {**fuzz(options.grids, options.seed), "seconds": round(time.perf_counter() - start)}
    result |= {"seed": options.seed, "environment": records.environment(), **records.code_version()}
    print(result)
    records.write_atomically(options.out / "reliability-numbers.json", (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
