"""The text of a PTX module, taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ptx.arithmetic import TYPES

if TYPE_CHECKING:
    from ptx.machine import Wave

Rows = np.ndarray | slice  # which threads: their indices, or slice(None) for all


class PtxError(RuntimeError):
    """Something that a GPU would not forgive, or that the interpreter does not know."""


@dataclass(frozen=True)
class Instruction:
    """Such as ``@!%p1 add.ftz.f32 %f1, %f2, 0f3F800000;``."""

    text: str
    name: str  # add
    modifiers: tuple[str, ...]  # ftz, f32
    operands: tuple[str, ...]
    guard: str | None  # %p1
    guard_inverted: bool

    @property
    def type(self) -> str:
        return self.modifiers[-1] if self.modifiers else ""


@dataclass
class Kernel:
    """A kernel as parsed."""

    name: str
    parameters: list[tuple[str, int]] = field(default_factory=list)  # and their bytes
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # index of the instruction that follows
    registers: dict[str, str] = field(default_factory=dict)  # name to type
    variables: dict[str, tuple[str, int]] = field(default_factory=dict)  # name to space and offset
    sizes: dict[str, int] = field(default_factory=lambda: {"shared": 0, "local": 0})  # bytes of a block, of a thread
    dynamic: list[str] = field(default_factory=list)  # names of dynamic shared memory
    targets: dict[str, list[str]] = field(default_factory=dict)  # of brx.idx
    program: list[Callable[[Wave, Rows], None]] = field(default_factory=list)  # what they do, filled at a launch


_VARIABLE = re.compile(r"\.(shared|local) (?:\.align (\d+) )?\.(\w+) ([\w$]+)(?:\[(\d+)\])?")
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(\w+) (?:\.ptr (?:\.\w+ (?:\d+ )?)*)?([\w$]+)(?:\[(\d+)\])?")


def parse(text: bytes | str) -> dict[str, Kernel]:
    """All kernels of a module, by name."""
    if isinstance(text, bytes):
        text = text.decode()
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"[ \t]+", " ", text)
    dynamic = re.findall(r"^\.extern \.shared[^;]*? ([\w$]+)\[\];", text, re.MULTILINE)
    of_module = re.findall(r"^\.shared[^;]*", text, re.MULTILINE)
    kernels = {}
    for match in re.finditer(r"\.entry (\w+)\(([^)]*)\)[^{]*\{", text):
        kernel = kernels[match[1]] = Kernel(match[1], dynamic=dynamic)
        for type_, name, count in _PARAMETER.findall(match[2]):
            kernel.parameters.append((name, TYPES[type_].itemsize * int(count or 1)))
        _parse_body(kernel, text, match.end())
        used = {operand for instruction in kernel.instructions for operand in instruction.operands}
        for declared in of_module:
            if any(_VARIABLE.match(declared)[4] in operand for operand in used):
                _declare(kernel, declared, [{}])
    return kernels


def _parse_body(kernel: Kernel, text: str, position: int) -> None:
    scopes: list[dict[str, str]] = [{}]  # of braces within each other: names of registers that hide others
    piece = re.compile(r"\s*(?:(\{)|(\})|(\$?\w+):(?!:)|([^;]+);)")
    while True:
        match = piece.match(text, position)
        assert match, text[position : position + 100]
        position = match.end()
        opened, closed, label, statement = match.groups()
        if opened:
            scopes.append({})
        elif closed:
            scopes.pop()
            if not scopes:
                return
        elif label and (targets := re.match(r" ?\.branchtargets ([^;]+);", text[position:])):
            kernel.targets[label] = re.split(r",\s*", targets[1])
            position += targets.end()
        elif label:
            kernel.labels[label] = len(kernel.instructions)
        elif statement.startswith((".reg", ".shared", ".local")):
            _declare(kernel, " ".join(statement.split()), scopes)
        elif not statement.startswith("."):  # others are hints, such as .pragma
            kernel.instructions.append(_instruction(statement, scopes))


def _declare(kernel: Kernel, statement: str, scopes: list[dict[str, str]]) -> None:
    if not statement.startswith(".reg"):
        space, align, type_, name, count = _VARIABLE.match(statement).groups()
        start = -(-kernel.sizes[space] // int(align or 1)) * int(align or 1)
        kernel.variables[name] = space, start
        kernel.sizes[space] = start + TYPES[type_].itemsize * int(count or 1)
        return
    _, type_, names = statement.split(" ", 2)
    for name in re.split(r", ?", names):
        family = re.match(r"(%\w+)<(\d+)>", name)
        for each in [f"{family[1]}{i}" for i in range(int(family[2]))] if family else [name]:
            unique = each if len(scopes) == 1 else f"{each}~{len(kernel.registers)}"
            scopes[-1][each] = unique
            kernel.registers[unique] = type_.removeprefix(".")


def _instruction(statement: str, scopes: list[dict[str, str]]) -> Instruction:
    def renamed(match: re.Match[str]) -> str:
        return next((scope[match[0]] for scope in reversed(scopes) if match[0] in scope), match[0])

    text = " ".join(statement.split())
    guard, opcode, rest = re.match(r"(?:@(!?%\w+) )?([\w.:]+) ?(.*)", re.sub(r"%\w+", renamed, text)).groups()
    name, *modifiers = opcode.replace("::", "__").split(".")
    operands = tuple(part.replace(" ", "") for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest))
    inverted = guard is not None and guard.startswith("!")
    return Instruction(text, name, tuple(modifiers), operands, guard and guard.lstrip("!"), inverted)
