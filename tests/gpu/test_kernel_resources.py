"""The arithmetic of theoretical occupancy."""

from __future__ import annotations

import json
import re

import kernel_resources
import nvrtc
import pytest
from kernel_resources import block_size, blocks_at_once, occupancy

from ministn.kernels import _cuda


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "blocks"),
    [
        # 8 warps of 32 * 32 = 1024 registers; a fourth of the multiprocessor has room for 16 of them, all four for 64,
        # which is 8 blocks; the 32 places for warps of sm_75 are 4 blocks, the 64 of sm_80 are 8.
        ("75", 32, 256, 0, 4),
        ("80", 32, 256, 0, 8),
        # 33 registers are 1056 of a warp, given out as 1280: 12 warps in a fourth, 48 in all, 6 blocks
        ("80", 33, 256, 0, 6),
        # 255 registers are 8160, given out as 8192: 2 warps in a fourth, 8 in all: one block of 8 warps, or none of 9
        ("90", 255, 256, 0, 1),
        ("90", 255, 288, 0, 0),
        # one warp a block: the number of blocks ends it
        ("75", 16, 32, 0, 16),
        ("120", 16, 32, 0, 24),
        # 40000 bytes and 1024 for the system are 41024, given out as 41088: 102400 are two of these, but for 1024
        # threads a block there is room only once among 48 warps
        ("120", 32, 1024, 40000, 1),
        ("120", 32, 128, 40000, 2),
        # sm_75 keeps nothing for itself: 32 KiB go twice into 64 KiB, a byte more, given out as 256, only once
        ("75", 32, 128, 32768, 2),
        ("75", 32, 128, 32769, 1),
    ],
)
def test_blocks_at_once_by_hand(arch: str, registers: int, threads: int, shared: int, blocks: int) -> None:
    assert blocks_at_once(arch, registers, threads, shared) == blocks


def test_occupancy_is_a_share_of_the_places_for_warps() -> None:
    assert occupancy("75", 32, 256, 0) == 1.0
    assert occupancy("80", 33, 256, 0) == 48 / 64
    assert occupancy("120", 40, 256, 0) == 1.0
    assert occupancy("120", 16, 32, 0) == 24 / 48
    assert occupancy("80", 16, 33, 0) == 1.0  # 32 blocks of 2 warps each, though of the second only one thread works


def test_block_size_is_what_the_launch_bounds_say() -> None:
    ptx = b".visible .entry a(\n.param .u64 p\n)\n.maxntid 64, 2, 1\n{\n}\n.visible .entry b(\n)\n{\n.maxntid 9;\n}"
    assert block_size(ptx, "a") == 128
    assert block_size(ptx, "b") == _cuda.THREADS


def test_the_committed_table_has_every_kernel() -> None:
    record = json.loads((kernel_resources.ROOT / "docs" / "results" / "kernel_resources.json").read_text())
    sources = "".join(_cuda.source(package) for package in nvrtc.packages())
    there = re.findall(r'extern "C" __global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?(\w+)\(', sources)
    assert {row["kernel"] for row in record["kernels"]} == set(there), f"run {record['command']}"
    assert len(record["kernels"]) == len(there) * len(kernel_resources.DTYPES) * len(nvrtc.ARCHITECTURES)
    lines = kernel_resources.table(record["kernels"]).splitlines()
    assert sorted(line.split("`")[1] for line in lines[2:]) == sorted(there)
