"""What each CUDA kernel takes of a GPU, and how many of its threads fit on a multiprocessor at once: no GPU needed.

    python tests/gpu/kernel_resources.py

compiles every kernel for four architectures, prints a table, and writes docs/results/kernel_resources.json and the
picture docs/images/kernel_resources.png.

*Theoretical occupancy* is the share of a multiprocessor's places for warps that can be taken. What is left of it when
the kernel runs, and whether it matters, only a GPU can tell.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nvrtc

from ministn.kernels import _cuda

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
DTYPES = ("float32", "float64")
WARP = 32


@dataclass(frozen=True)
class Multiprocessor:
    """Its limits: CUDA Programming Guide, appendix Compute Capabilities, technical specifications."""

    warps: int
    blocks: int
    shared: int  # bytes
    reserved: int  # bytes of shared memory that the system takes of each block
    registers: int = 65536


MULTIPROCESSORS = {
    "75": Multiprocessor(warps=32, blocks=16, shared=64 * 1024, reserved=0),
    "80": Multiprocessor(warps=64, blocks=32, shared=164 * 1024, reserved=1024),
    "90": Multiprocessor(warps=64, blocks=32, shared=228 * 1024, reserved=1024),
    "120": Multiprocessor(warps=48, blocks=24, shared=100 * 1024, reserved=1024),
}
# How coarsely a multiprocessor gives out what it has: NVIDIA's cuda_occupancy.h, part of the CUDA toolkit.
_REGISTERS_OF_WARP = 256  # come in such pieces
_PARTS = 4  # of a multiprocessor, each with a fourth of the registers; a warp lives in one of them
_SHARED_OF_BLOCK = {"75": 256, "80": 128, "90": 128, "120": 128}  # bytes, come in such pieces


def blocks_at_once(arch: str, registers: int, threads: int, shared: int) -> int:
    """How many blocks of a kernel a multiprocessor holds at once.

    Parameters
    ----------
    arch : str
        The compute capability, without the point.
    registers : int
        Of each thread.
    threads : int
        Of a block.
    shared : int
        Bytes of shared memory of a block, static and dynamic.
    """
    limits = MULTIPROCESSORS[arch]
    warps = -(-threads // WARP)
    registers_of_warp = _rounded_up(registers * WARP, _REGISTERS_OF_WARP)
    by_registers = limits.registers // _PARTS // registers_of_warp * _PARTS // warps
    shared_of_block = _rounded_up(shared + limits.reserved, _SHARED_OF_BLOCK[arch])
    by_shared = limits.shared // shared_of_block if shared_of_block else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def occupancy(arch: str, registers: int, threads: int, shared: int) -> float:
    """The share of a multiprocessor's places for warps that `blocks_at_once` blocks take."""
    warps = -(-threads // WARP)
    return blocks_at_once(arch, registers, threads, shared) * warps / MULTIPROCESSORS[arch].warps


def block_size(ptx: bytes, kernel: str) -> int:
    """How many threads the largest blocks have that a kernel is launched with.

    What its ``__launch_bounds__`` say; without them, the default of `ministn.kernels._cuda.launch`.
    `test_ptx_of_kernels.py` holds what is launched against this.
    """
    head = re.search(rf"\.entry {kernel}\(.*?\)(.*?)\{{", ptx.decode(), re.DOTALL)
    assert head, f"no kernel {kernel}"
    bounds = re.search(r"\.maxntid ([\d, ]+)", head[1])
    return math.prod(int(size) for size in bounds[1].split(",")) if bounds else _cuda.THREADS


def rows(architectures: tuple[str, ...]) -> list[dict[str, Any]]:
    """A line of the table for each kernel, type of number and architecture."""
    found = []
    for package in nvrtc.packages():
        source = _cuda.source(package)
        for dtype in DTYPES:
            options = _cuda.options(dtype)
            ptx, _ = nvrtc.compile(source, options, nvrtc.ARCHITECTURES[0], "ptx")
            for arch in architectures:
                _, log = nvrtc.compile(source, options, arch)
                for kernel, taken in sorted(nvrtc.resources(log).items()):
                    threads = block_size(ptx, kernel)
                    fits = occupancy(arch, taken.registers, threads, taken.shared)
                    row = {"family": package.removeprefix("ministn."), "kernel": kernel, "dtype": dtype, "sm": arch}
                    found.append({**row, **asdict(taken), "threads": threads, "occupancy": round(fits, 3)})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a line for each kernel: float / double."""
    lines = {}
    for row in found:
        lines.setdefault((row["kernel"], row["threads"]), {})[row["sm"], row["dtype"]] = row
    architectures = sorted({row["sm"] for row in found}, key=int)
    heads = ["kernel", "threads", *[f"sm_{arch}" for arch in architectures], "shared memory"]
    text = ["| " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * (len(heads) - 2)]
    for (kernel, threads), of in lines.items():
        cells = [f"`{kernel}`", str(threads)]
        for arch in architectures:
            pair = [of[arch, dtype] for dtype in DTYPES]
            registers = " / ".join(str(row["registers"]) for row in pair)
            cells.append(registers + ", " + " / ".join(f"{row['occupancy']:.0%}" for row in pair))
        shared = [of[architectures[0], dtype]["shared"] for dtype in DTYPES]
        cells.append(" / ".join(str(size) for size in shared) if any(shared) else "")
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def draw(found: list[dict[str, Any]]) -> Figure:
    """The occupancies as shades, with the registers written in."""
    from matplotlib.figure import Figure

    architectures = sorted({row["sm"] for row in found}, key=int)
    kernels = list(dict.fromkeys(row["kernel"] for row in found))
    figure = Figure(figsize=(8, 1.6 + 0.19 * len(kernels)), dpi=110, layout="constrained")
    for axes, dtype in zip(figure.subplots(1, len(DTYPES), sharey=True), DTYPES, strict=True):
        of = {(row["kernel"], row["sm"]): row for row in found if row["dtype"] == dtype}
        values = [[of[kernel, arch]["occupancy"] for arch in architectures] for kernel in kernels]
        image = axes.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for y, kernel in enumerate(kernels):
            for x, arch in enumerate(architectures):
                colour = "white" if values[y][x] > 0.6 else "black"
                text = str(of[kernel, arch]["registers"])
                axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(architectures)), [f"sm_{arch}" for arch in architectures])
        axes.set_yticks(range(len(kernels)), kernels, fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(dtype)
    figure.colorbar(image, ax=figure.axes, format="{x:.0%}", label="theoretical occupancy", aspect=50)
    figure.suptitle("Registers of a thread, and how much of a multiprocessor can be taken")
    return figure


def _rounded_up(value: int, piece: int) -> int:
    return -(-value // piece) * piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder to write to")
    docs = parser.parse_args().docs
    if nvrtc.missing():
        raise SystemExit(nvrtc.missing())
    found = rows(nvrtc.architectures())
    record = {"command": "python tests/gpu/kernel_resources.py", "nvrtc": list(nvrtc.version()), "kernels": found}
    (docs / "results" / "kernel_resources.json").write_text(_as_json(record))
    draw(found).savefig(docs / "images" / "kernel_resources.png")
    print(table(found))
    print("\nRegisters of a thread and theoretical occupancy, float / double; shared memory in bytes of a block.")


def _as_json(record: dict[str, Any]) -> str:
    """With a line for each kernel, so that changes are seen as such."""
    kernels = ",\n  ".join(json.dumps(row) for row in record["kernels"])
    head = json.dumps({**record, "kernels": []}, indent=1)
    return head.replace('"kernels": []', f'"kernels": [\n  {kernels}\n ]') + "\n"


if __name__ == "__main__":
    main()
