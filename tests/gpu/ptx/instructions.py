"""What each instruction does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptx.accesses import Action, atomic, generic_address, load, store
from ptx.computing import COMPUTED, compare, compute, convert, move
from ptx.flow import FLOW
from ptx.parsing import Instruction, Kernel, PtxError, Rows

if TYPE_CHECKING:
    from ptx.machine import Wave


def _active_mask(instruction: Instruction) -> Action:
    def act(wave: Wave, rows: Rows) -> None:
        here = wave.indices(rows)
        wave.write(instruction.operands[0], wave.lanes(here)[wave.warp[here]].astype(np.uint32), rows)

    return act


def _nothing(instruction: Instruction) -> Action:
    return lambda wave, rows: None


def _trap(instruction: Instruction) -> Action:
    def act(wave: Wave, rows: Rows) -> None:
        raise wave.error(instruction, wave.indices(rows)[0], "the kernel gives up")

    return act


_ACTIONS = {
    **dict.fromkeys(COMPUTED, compute),
    **dict.fromkeys(FLOW, _nothing),
    "ld": load,
    "st": store,
    "atom": atomic,
    "red": atomic,
    "mov": move,
    "cvt": convert,
    "cvta": generic_address,
    "setp": compare,
    "activemask": _active_mask,
    "trap": _trap,
    **dict.fromkeys(("membar", "fence", "prefetch", "prefetchu"), _nothing),  # threads take turns here: all is in order
}


def action(kernel: Kernel, instruction: Instruction) -> Action:
    if instruction.name not in _ACTIONS:
        raise PtxError(f"{kernel.name}: {instruction.text}: {instruction.name} is not known")
    try:
        return _ACTIONS[instruction.name](instruction)
    except NotImplementedError as error:
        raise unknown(kernel, instruction, error) from error


def unknown(kernel: Kernel, instruction: Instruction, what: NotImplementedError) -> PtxError:
    return PtxError(f"{kernel.name}: {instruction.text}: not known: {what}")
