"""From CUDA C++ to C++: what a header alone cannot do.

Nearly all of CUDA is names, and language/cuda_language.h defines them. Only declarations of shared memory must be
rewritten: a variable there is one for the whole block, so it becomes a reference to memory that the scheduler
hands out. The rewritten text has the same number of lines as the original.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
_ALIGNMENT = r"(?:alignas|__align__)\s*\([^)]*\)\s*"
_SHARED = re.compile(rf"(?:{_ALIGNMENT}|\b(?:static|extern|volatile)\s+)*\b__shared__\b[^;]*;")
_BOUNDS = r"(?:\s*__launch_bounds__\s*\((?P<{}>(?:[^()]|\([^()]*\))*)\))?"
_KERNEL = re.compile(
    rf'\bextern\s*"C"\s*__global__\b{_BOUNDS.format("before")}\s*void{_BOUNDS.format("after")}'
    r"\s*(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)"
)


class Signature(NamedTuple):
    """A kernel as its source declares it."""

    name: str
    parameters: tuple[str, ...]
    most_threads: str  # of a block: an expression of C++, from __launch_bounds__


def translate(source: str) -> str:
    """The source as C++, to be compiled behind ``cuda_language.h``.

    Raises
    ------
    ValueError
        If a ``__shared__`` declaration is not understood.
    """
    blank = _without_comments(source)
    pieces, end = [], 0
    for match in _SHARED.finditer(blank):
        if _depth(blank[: match.start()]) == 0:
            raise ValueError(f"line {_line(blank, match.start())}: __shared__ outside of a function is not emulated")
        new_lines = "\n" * match[0].count("\n")
        pieces += [source[end : match.start()], _declarations(match[0], _line(blank, match.start())), new_lines]
        end = match.end()
    return "".join(pieces) + source[end:]


def kernels(source: str) -> list[Signature]:
    """The ``extern "C" __global__`` functions of a source, with the names of their parameters."""
    blank = _without_comments(source, keep_strings=True)
    macros = dict(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+((?:[^\\\n]|\\\n|\\.)*)", blank, re.MULTILINE))
    found = []
    for match in _KERNEL.finditer(blank):
        # A list of parameters that many kernels share may be a macro.
        parameters = re.sub(r"\w+", lambda word: macros.get(word[0], word[0]), match["parameters"]).replace("\\\n", " ")
        names = tuple(re.findall(r"(\w+)\s*(?:,|$)", parameters.strip()))
        bounds = match["before"] or match["after"] or "1024"
        found.append(Signature(match["name"], names, _split(bounds)[0]))
    return found


def main_file(source: str) -> str | None:
    """The file that the source says it is from, by its last ``#line`` directive."""
    names = re.findall(r'^\s*#\s*line\s+\d+\s+"([^"]+)"', source, re.MULTILINE)
    return names[-1] if names else None


def lines_by_place(source: str, file: str) -> dict[tuple[str, int], str]:
    """The text of each line of `source`, which begins in `file`, by the file and number that ``#line`` gives it."""
    lines, number = {}, 1
    for text in source.split("\n"):
        directive = re.match(r'\s*#\s*line\s+(\d+)(?:\s+"([^"]+)")?', text)
        if directive:
            number, file = int(directive[1]), directive[2] or file
            continue
        lines[file, number] = text
        number += 1
    return lines


def _without_comments(source: str, keep_strings: bool = False) -> str:
    """The source with spaces in place of comments (and strings): of the same length, in lines and in characters."""

    def blank(match: re.Match[str]) -> str:
        if keep_strings and match[0][0] in "\"'":
            return match[0]
        return re.sub(r"[^\n]", " ", match[0])

    return _COMMENT_OR_STRING.sub(blank, source)


def _depth(text: str) -> int:
    return text.count("{") - text.count("}")


def _line(text: str, position: int) -> int:
    """The number that the compiler would give the line, which ``#line`` may have set."""
    before = text[:position].split("\n")
    for back, line in enumerate(reversed(before[:-1])):
        directive = re.match(r"\s*#\s*line\s+(\d+)", line)
        if directive:
            return int(directive[1]) + back
    return len(before)


def _declarations(text: str, line: int) -> str:
    """``__shared__ number a[2][N], b;`` as references to what the scheduler hands out."""
    words = re.sub(rf"{_ALIGNMENT}|\b(?:static|__shared__)\b|;|\s+", " ", text).strip()
    is_dynamic = re.match(r"extern\b", words)
    declarators = _split(re.sub(r"\bextern\b", "", words))
    first = re.match(r"\s*(.*?[\s>*&])(\w+)\s*((?:\[[^\[\]]*\]\s*)*)$", declarators[0])
    if not first:
        raise ValueError(f"line {line}: not understood: {text}")
    type_name, variables = first[1].strip(), [first[2] + first[3], *declarators[1:]]
    results = []
    for variable in variables:
        match = re.match(r"\s*(\w+)\s*((?:\[[^\[\]]*\]\s*)*)$", variable)
        if not match:
            raise ValueError(f"line {line}: not understood: {text}")
        name, own, extents = match[1], f"cuda_emulator_{match[1]}", match[2].strip()
        if is_dynamic:
            results.append(f'{type_name}* const {name} = cuda_emulator::dynamic_shared<{type_name}>("{name}");')
        else:
            results.append(
                f"static int {own}_id = -1; typedef {type_name} {own}_type{extents}; "
                f'{own}_type& {name} = cuda_emulator::shared<{own}_type>(&{own}_id, "{name}");'
            )
    return " ".join(results)


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "<([{") - (character in ">)]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
