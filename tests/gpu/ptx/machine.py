"""Launching a kernel; who runs when, and what its registers hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from ptx.arithmetic import TYPES, bits_of
from ptx.flow import FLOW, WARP, reduce_at_barrier
from ptx.instructions import action, unknown
from ptx.memory import LOCAL_WINDOW, SHARED_WINDOW, GlobalMemory, PrivateMemory
from ptx.parsing import Instruction, Kernel, PtxError, Rows

MOST_THREADS = 2**14  # that run together: arrays larger than the processor's caches are slower
MOST_STEPS = 10**7  # of a wave, before it is taken for endless


def launch(
    kernel: Kernel,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[np.ndarray | np.generic],
    shared: int = 0,
    order: int = 0,
    warps_together: bool = True,
) -> None:
    """Run a kernel on NumPy arrays, to which it writes.

    Parameters
    ----------
    kernel : Kernel
    grid, block : sequence of int
        One to three sizes: blocks, and threads of a block.
    arguments : sequence of numpy.ndarray or numpy.generic
        C-contiguous arrays for pointers, NumPy scalars of the declared size for the rest.
    shared : int
        Bytes of dynamic shared memory of a block.
    order : int
        In which order blocks, and the warps of a block, come: 0 ascending, 1 descending, another number seeds a random
        one. Of threads that write to the same place at once the last one wins, and sums of atomicAdd add up in it.
    warps_together : bool
        Whether all warps go on in step, or each as far as it can before the next one starts: the second is slower and
        finds barriers that are missing.

    Raises
    ------
    PtxError
    """
    grid, block = [(*map(int, sizes), 1, 1)[:3] for sizes in (grid, block)]
    if not kernel.program:
        kernel.program = [action(kernel, instruction) for instruction in kernel.instructions]
    parameters = _parameters(kernel, arguments)
    memory = GlobalMemory([value for value in arguments if isinstance(value, np.ndarray)])
    blocks, warps = (_in_order(count, order) for count in (math.prod(grid), -(-math.prod(block) // WARP)))
    turns = np.zeros_like(warps) if warps_together else np.argsort(warps)
    at_once = max(1, MOST_THREADS // math.prod(block))
    with np.errstate(all="ignore"):
        for first in range(0, len(blocks), at_once):
            Wave(kernel, grid, block, shared, parameters, memory, blocks[first : first + at_once], turns).run()


def _parameters(kernel: Kernel, arguments: Sequence[np.ndarray | np.generic]) -> dict[str, np.ndarray]:
    """The bytes of each parameter."""
    if len(arguments) != len(kernel.parameters):
        raise PtxError(f"{kernel.name}: {len(arguments)} arguments for {len(kernel.parameters)} parameters")
    found = {}
    for (name, size), value in zip(kernel.parameters, arguments, strict=True):
        if isinstance(value, np.ndarray):
            if not value.flags.c_contiguous:
                raise PtxError(f"{kernel.name}: {name}: expected a C-contiguous array")
            value = np.uint64(value.ctypes.data)
        if value.nbytes != size:
            raise PtxError(f"{kernel.name}: {name} has {size} bytes, got {value.nbytes} ({type(value).__name__})")
        found[name] = np.frombuffer(value.tobytes(), np.uint8)
    return found


def _in_order(count: int, order: int) -> np.ndarray:
    if order < 2:
        return np.arange(count)[:: -1 if order else 1]
    return np.random.default_rng(order).permutation(count)


class Wave:
    """Some blocks that run together: each row of its arrays is a thread, those of a block and of a warp are adjacent.

    ``turns`` says for each warp of a block when it has its turn: all those of the same turn go on together.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        parameters: dict[str, np.ndarray],
        memory: GlobalMemory,
        blocks: np.ndarray,
        turns: np.ndarray,
    ) -> None:
        self.kernel, self.parameters, self.memory = kernel, parameters, memory
        self.of_block, self.end = math.prod(block), len(kernel.instructions)
        self.count = len(blocks) * self.of_block
        self.thread = np.tile(np.arange(self.of_block), len(blocks))  # of its block
        self.block = np.repeat(blocks, self.of_block)
        self.block_row = np.repeat(np.arange(len(blocks)), self.of_block)  # its place among the blocks of the wave
        self.lane = self.thread % WARP
        self.warp = self.block_row * len(turns) + self.thread // WARP  # its place among all warps of the wave
        self.turn = turns[self.thread // WARP]
        self.pc = np.zeros(self.count, np.int64)  # the index of the next instruction
        self.at_barrier, self.awaiting_lanes = np.zeros((2, self.count), bool)
        self.steps = 0
        self.unwritten: dict[str, np.ndarray] = {}  # in which rows, of registers that are written in others
        self.registers = {"%laneid": self.lane.astype(np.uint32)}
        for name, number, sizes in (("tid", self.thread, block), ("ctaid", self.block, grid)):
            for axis, size in zip("xyz", sizes, strict=True):
                self.registers[f"%{name}.{axis}"] = (number % size).astype(np.uint32)
                self.registers[f"%n{name}.{axis}"] = np.full(self.count, size, np.uint32)
                number = number // size
        static, local = kernel.sizes["shared"], kernel.sizes["local"]
        self.dynamic_start = -(-static // 16) * 16  # of dynamic shared memory, behind the static one
        self.spaces = {
            "shared": PrivateMemory(self.dynamic_start + shared if shared else static, self.block_row),
            "local": PrivateMemory(local, np.arange(self.count)),
        }

    # --- who runs ---

    def run(self) -> None:
        """All threads from the start to the end."""
        while True:
            ready = (self.pc < self.end) & ~self.at_barrier & ~self.awaiting_lanes
            if not ready.any():
                if (self.pc == self.end).all():
                    return
                self._release_barrier()
                continue
            ready &= self.turn == self.turn[ready].min()
            start = self.pc[ready].min()
            here = ready & (self.pc == start)
            others = self.pc[ready & ~here]
            rows = slice(None) if here.all() else np.flatnonzero(here)
            self._run_from(int(start), rows, int(others.min()) if others.size else self.end)

    def _run_from(self, pc: int, rows: Rows, stop: int) -> None:
        """Go on until the threads part, wait or end, or come to where others are."""
        while True:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise PtxError(f"{self.kernel.name}: still running after {MOST_STEPS} steps")
            instruction = self.kernel.instructions[pc]
            try:
                next_pc = self._step(pc, instruction, rows)
            except NotImplementedError as error:
                raise unknown(self.kernel, instruction, error) from error
            except ZeroDivisionError as error:
                raise PtxError(f"{self.kernel.name}: {instruction.text}: division by zero") from error
            if next_pc is None:
                return
            pc = next_pc
            if pc >= stop:
                self.pc[rows] = pc
                return

    def _step(self, pc: int, instruction: Instruction, rows: Rows) -> int | None:
        """One instruction: where all of the rows are then, or None if that is in self.pc."""
        active = rows
        if instruction.guard is not None:
            holds = self.read(instruction.guard, "pred", rows, instruction) ^ instruction.guard_inverted
            if not holds.all():
                active = self.indices(rows)[holds]
        if instruction.name in FLOW:
            return FLOW[instruction.name](self, pc, instruction, rows, active)
        if isinstance(active, slice) or active.size:
            self.kernel.program[pc](self, active)
        return pc + 1

    def _release_barrier(self) -> None:
        """All blocks whose threads all wait go on."""
        if self.awaiting_lanes.any():
            row = np.flatnonzero(self.awaiting_lanes)[0]
            raise self.error(self._instruction_at(row), row, "waits for lanes of its warp that never come")
        waiting, pcs = (values.reshape(-1, self.of_block) for values in (self.at_barrier, self.pc))
        for number in np.flatnonzero(waiting.any(1)):
            first = number * self.of_block
            row = first + int(np.flatnonzero(waiting[number])[0])
            if not waiting[number].all():
                other = first + int(np.flatnonzero(~waiting[number])[0])
                text = f"waits at a barrier, and {self.where(other)} has ended"
                raise self.error(self._instruction_at(row), row, text)
            if (pcs[number] != pcs[number, 0]).any():
                other = first + int(np.flatnonzero(pcs[number] != self.pc[row])[0])
                text = f"waits at a barrier, and {self.where(other)} at another"
                raise self.error(self._instruction_at(row), row, text)
        rows = np.flatnonzero(self.at_barrier)
        for pc in np.unique(self.pc[rows]):
            reduce_at_barrier(self, self.kernel.instructions[pc], rows[self.pc[rows] == pc])
        self.pc[rows] += 1
        self.at_barrier[rows] = False

    def _instruction_at(self, row: int) -> Instruction:
        return self.kernel.instructions[self.pc[row]]

    # --- rows ---

    def indices(self, rows: Rows) -> np.ndarray:
        return np.arange(self.count) if isinstance(rows, slice) else rows

    def number(self, rows: Rows) -> int:
        return self.count if isinstance(rows, slice) else len(rows)

    def where(self, row: int) -> str:
        return f"thread {self.thread[row]} of block {self.block[row]}"

    def error(self, instruction: Instruction, row: int, text: str) -> PtxError:
        return PtxError(f"{self.kernel.name}: {self.where(row)}: {instruction.text}: {text}")

    # --- registers ---

    def read(self, operand: str, type_: str, rows: Rows, instruction: Instruction) -> np.ndarray:
        """The values of an operand, one for each row, or a single one of a constant."""
        dtype = TYPES[type_]
        if operand[0] == "!":
            return ~self.read(operand[1:], type_, rows, instruction)
        if operand[0] != "%":
            return self._constant(operand, dtype)
        if operand not in self.registers:
            raise self.error(instruction, self.indices(rows)[0], f"{operand} is read, and never written before")
        if operand in self.unwritten and (missing := self.unwritten[operand][rows]).any():
            row = self.indices(rows)[missing][0]
            raise self.error(instruction, row, f"{operand} is read, and written only by other threads before")
        values = self.registers[operand][rows]
        if values.dtype.itemsize != dtype.itemsize:
            values = values.astype(f"u{dtype.itemsize}")
        return values.view(dtype)

    def _constant(self, operand: str, dtype: np.dtype) -> np.ndarray:
        if operand[:2].lower() in ("0f", "0d"):
            return np.frombuffer(bytes.fromhex(operand[2:])[::-1], dtype)
        if dtype.kind == "b":
            return np.array([bool(int(operand))])
        if operand in self.kernel.dynamic:
            value = self.dynamic_start
        elif operand in self.kernel.variables:
            value = self.kernel.variables[operand][1]
        elif operand == "WARP_SZ":
            value = WARP
        elif re.fullmatch(r"-?\d+|-?0x[0-9a-fA-F]+U?", operand):
            value = int(operand.rstrip("U"), 0)
        else:
            raise NotImplementedError(operand)
        return np.array([value & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}").view(dtype)

    def write(self, operand: str, values: np.ndarray, rows: Rows) -> None:
        """Into a register; narrower values are extended, with their sign if they have one."""
        if operand == "_":
            return
        width = TYPES[self.kernel.registers[operand]]
        if values.dtype.kind != "b" and values.dtype.itemsize != width.itemsize:
            values = values.astype(f"{'i' if values.dtype.kind == 'i' else 'u'}{width.itemsize}")
        values = bits_of(values)
        if isinstance(rows, slice):
            self.registers[operand] = values.copy() if len(values) == self.count else np.full(self.count, values[0])
            self.unwritten.pop(operand, None)
            return
        if operand not in self.registers:
            self.registers[operand] = np.empty(self.count, values.dtype)
            self.unwritten[operand] = np.ones(self.count, bool)
        self.registers[operand][rows] = values
        if operand in self.unwritten:
            self.unwritten[operand][rows] = False

    # --- memory ---

    def addresses(self, operand: str, rows: Rows, instruction: Instruction) -> np.ndarray:
        """Of ``[%rd1+8]``."""
        base, offset = re.fullmatch(r"\[([%\w$~.]+?)(?:\+(-?\d+))?\]", operand).groups()
        type_ = "b64" if base[0] != "%" else self.kernel.registers[base]
        values = self.read(base, type_, rows, instruction).astype(np.int64) + int(offset or 0)
        return np.broadcast_to(values, self.number(rows))

    def places(
        self, space: str, addresses: np.ndarray, dtype: np.dtype, rows: Rows, instruction: Instruction, count: int = 1
    ) -> Iterator[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
        """Where in memory the addresses of the rows are: for some of the rows, an array and indices into it."""
        misaligned = addresses % (dtype.itemsize * count) != 0
        if misaligned.any():
            row = self.indices(rows)[misaligned][0]
            raise self.error(instruction, row, f"misaligned access to {dtype.itemsize * count} bytes")
        if space == "generic":
            yield from self._generic_places(addresses, dtype, rows, instruction, count)
            return
        try:
            if space in self.spaces:
                yield slice(None), *self.spaces[space].places(addresses, dtype, count, rows)
            else:
                yield from self.memory.places(addresses, dtype, count)
        except IndexError as error:
            which = error.args[0]
            text = f"{space} address {addresses[which]:#x} is outside of all {space} memory"
            raise self.error(instruction, self.indices(rows)[which], text) from None

    def _generic_places(
        self, addresses: np.ndarray, dtype: np.dtype, rows: Rows, instruction: Instruction, count: int
    ) -> Iterator[tuple[np.ndarray | slice, np.ndarray, np.ndarray]]:
        windows = {"local": LOCAL_WINDOW, "shared": SHARED_WINDOW, "global": 0}
        left = np.ones(len(addresses), bool)
        for space, start in windows.items():
            some = np.flatnonzero(left & (addresses >= start))
            left[some] = False
            if some.size:
                of_space, of_rows = addresses[some] - start, self.indices(rows)[some]
                for part, array, indices in self.places(space, of_space, dtype, of_rows, instruction, count):
                    yield some[part], array, indices

    # --- warps ---

    def lanes(self, rows: np.ndarray) -> np.ndarray:
        """For each warp, a bit for each of the rows that are in it."""
        weights = 2.0 ** self.lane[rows]
        return np.bincount(self.warp[rows], weights, minlength=self.warp[-1] + 1).astype(np.int64)
