"""Branches, barriers, shuffles: instructions that change who runs, or that wait for others.

A function here takes the wave, the index of the instruction, the rows that are at it and those whose guard holds, and
returns where all of these rows are then, or None if it has set that in ``wave.pc``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx.parsing import Instruction, Rows

if TYPE_CHECKING:
    from ptx.machine import Wave

WARP = 32


def _branch(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    target, number = wave.kernel.labels[instruction.operands[0]], wave.number(active)
    if number == wave.number(rows):
        return target
    if number == 0:
        return pc + 1
    wave.pc[rows] = pc + 1
    wave.pc[active] = target
    return None


def _branch_by_index(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    index, targets = instruction.operands
    places = np.array([wave.kernel.labels[label] for label in wave.kernel.targets[targets]])
    wave.pc[rows] = pc + 1
    wave.pc[active] = places[wave.read(index, "u32", active, instruction)]
    return None


def _return(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    if wave.number(active) == 0:
        return pc + 1
    wave.pc[rows] = pc + 1
    wave.pc[active] = wave.end
    wave.awaiting_lanes[:] = False  # they look again: an ended thread is not waited for
    return None


def _barrier(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    kinds = set(instruction.modifiers)
    if "warp" in kinds:
        return _together(wave, pc, instruction, rows, active, lambda here, masks: None)
    operands = instruction.operands[1:] if "red" in kinds else instruction.operands
    threads = operands[1:2] if len(operands) > 1 + ("red" in kinds) else []
    if not kinds & {"sync", "red"} or any(count != str(wave.of_block) for count in threads):
        raise NotImplementedError("barriers for some threads of a block")
    wave.pc[rows] = pc + 1
    wave.pc[active] = pc
    wave.at_barrier[active] = True
    return None


def reduce_at_barrier(wave: Wave, instruction: Instruction, rows: np.ndarray) -> None:
    """What ``bar.red`` does when all threads of some blocks have come."""
    if "red" not in instruction.modifiers:
        return
    holds = wave.read(instruction.operands[-1], "pred", rows, instruction)
    counts = np.bincount(wave.block_row[rows], np.broadcast_to(holds, len(rows)))[wave.block_row[rows]]
    if "popc" in instruction.modifiers:
        wave.write(instruction.operands[0], counts.astype(np.uint32), rows)
    else:
        wave.write(instruction.operands[0], counts >= (wave.of_block if "and" in instruction.modifiers else 1), rows)


def _together(
    wave: Wave,
    pc: int,
    instruction: Instruction,
    rows: Rows,
    active: Rows,
    act: Callable[[np.ndarray, np.ndarray], None],
) -> int | None:
    """``act(rows, masks)`` for those rows whose mask's lanes are all here, or have ended; the rest waits for them."""
    waiting = np.flatnonzero(wave.awaiting_lanes & (wave.pc == pc))
    here = np.union1d(wave.indices(active), waiting)
    masks = np.broadcast_to(wave.read(instruction.operands[-1], "u32", here, instruction), len(here)).astype(np.int64)
    missing = (masks >> wave.lane[here] & 1) == 0
    if missing.any():
        raise wave.error(instruction, here[missing][0], "its own lane is not in the mask")
    present, living = wave.lanes(here), wave.lanes(np.flatnonzero(wave.pc < wave.end))
    complete = (masks & living[wave.warp[here]] & ~present[wave.warp[here]]) == 0
    if complete.any():
        act(here[complete], masks[complete])
    if complete.all() and not waiting.size:
        return pc + 1
    wave.pc[rows] = pc + 1
    wave.pc[here] = np.where(complete, pc + 1, pc)
    wave.awaiting_lanes[here] = ~complete
    return None


def _shuffle(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    target, value, distance, clamp, _ = instruction.operands

    def act(here: np.ndarray, masks: np.ndarray) -> None:
        values = np.broadcast_to(wave.read(value, "b32", here, instruction), len(here))
        by = wave.read(distance, "u32", here, instruction).astype(np.int64) & 31
        limits = wave.read(clamp, "u32", here, instruction).astype(np.int64)
        lane, segment, limit = wave.lane[here], limits >> 8 & 31, limits & 31
        lowest, highest = lane & segment, (lane & segment) | (limit & ~segment)
        mode = next(mode for mode in ("up", "down", "bfly", "idx") if mode in instruction.modifiers)
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": lowest | (by & ~segment)}[mode]
        inside = source >= highest if mode == "up" else source <= highest
        source = np.where(inside, source, lane)
        position = np.full((wave.warp[-1] + 1, WARP), -1)
        position[wave.warp[here], lane] = np.arange(len(here))
        found = position[wave.warp[here], source]
        if (found < 0).any():
            row = int(np.flatnonzero(found < 0)[0])
            raise wave.error(instruction, here[row], f"lane {source[row]}, which it reads, takes no part")
        register, _, predicate = target.partition("|")
        wave.write(register, values[found], here)
        if predicate:
            wave.write(predicate, np.broadcast_to(inside, len(here)), here)

    return _together(wave, pc, instruction, rows, active, act)


def _vote(wave: Wave, pc: int, instruction: Instruction, rows: Rows, active: Rows) -> int | None:
    target, predicate, _ = instruction.operands

    def act(here: np.ndarray, masks: np.ndarray) -> None:
        holds = np.broadcast_to(wave.read(predicate, "pred", here, instruction), len(here))
        voters, yes = (wave.lanes(some)[wave.warp[here]] & masks for some in (here, here[holds]))
        results = {"ballot": yes.astype(np.uint32), "any": yes != 0, "all": yes == voters}
        results["uni"] = results["all"] | ~results["any"]
        wave.write(target, next(results[mode] for mode in results if mode in instruction.modifiers), here)

    return _together(wave, pc, instruction, rows, active, act)


FLOW = {
    "bra": _branch,
    "brx": _branch_by_index,
    "ret": _return,
    "exit": _return,
    "bar": _barrier,
    "barrier": _barrier,
    "shfl": _shuffle,
    "vote": _vote,
}
