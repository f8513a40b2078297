"""Whether the installed CuPy has what the stand-in offers; run in a process of its own, where ``cupy`` is CuPy.

Reads from standard input, as JSON, the names that are offered, each with its parameters if it can be called; prints
what CuPy lacks, a line for each. CuPy can be imported, and asked for signatures, on a machine without a GPU.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

import cupy


def main() -> None:
    assert not hasattr(cupy, "_stand_in"), "this is the stand-in itself"
    for name, parameters in json.load(sys.stdin).items():
        for problem in problems(name, parameters):
            print(f"{name}: {problem}")


def problems(name: str, parameters: list[list[Any]] | None) -> list[str]:
    try:
        thing: Any = cupy
        for part in name.split("."):
            thing = getattr(thing, part)
    except AttributeError as error:
        return [str(error)]
    if parameters is None:
        return []
    theirs = signature(thing)
    return [] if theirs is None else list(differences(parameters, theirs))


def differences(parameters: list[list[Any]], theirs: list[inspect.Parameter]):
    """How a call that fits `parameters`, of [name, kind, repr of the default or None], may not fit `theirs`."""
    by_name = {parameter.name: parameter for parameter in theirs}
    kinds = {parameter.kind for parameter in theirs}
    places = [p for p in theirs if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for i, (name, kind, default) in enumerate(parameters):
        if kind == "VAR_POSITIONAL":
            if not places and inspect.Parameter.VAR_POSITIONAL not in kinds:
                yield "takes no positional arguments"
            continue
        their = by_name.get(name)
        if their is None:
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                yield f"has no parameter {name!r}"
            continue
        if kind == "POSITIONAL_OR_KEYWORD" and their.kind != their.KEYWORD_ONLY:
            if inspect.Parameter.VAR_POSITIONAL not in kinds and places[i : i + 1] != [their]:
                yield f"{name!r} is not parameter {i}"
        elif kind != "KEYWORD_ONLY" and their.kind == their.KEYWORD_ONLY:
            yield f"{name!r} only by keyword"
        if default is not None and (their.default is their.empty or repr(their.default) != default):
            yield f"{name!r} is {their.default!r} by default, not {default}"
    offered = {name for name, _, _ in parameters}
    star = any(kind == "VAR_POSITIONAL" for _, kind, _ in parameters)
    for their in theirs:
        is_given = their.name in offered or (star and their in places)
        needed = their.default is their.empty and their.kind not in (their.VAR_POSITIONAL, their.VAR_KEYWORD)
        if needed and not is_given:
            yield f"needs {their.name!r}"


def signature(thing: Any) -> list[inspect.Parameter] | None:
    """The parameters, `self` left out; of a compiled function as its documentation has them. None if nobody knows."""
    try:
        found = list(inspect.signature(thing).parameters.values())
        if [p.kind for p in found if p.name != "self"] != [
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ]:
            return [p for p in found if p.name != "self"]
    except (TypeError, ValueError):
        pass
    written = re.match(r"[\w.]+\((.*?)\)( -> .*)?$", (thing.__doc__ or "").strip().split("\n")[0])
    return None if written is None else [*_parsed(written[1])]


def _parsed(text: str):
    """Parameters from text such as "self, ndarray a, int axis=0, /, *, out=None"."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parts = [part.strip().replace("\\", "") for part in text.split(",") if part.strip()]
    before_slash = parts.index("/") if "/" in parts else 0
    for i, part in enumerate(parts):
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif part.startswith("**"):
            yield inspect.Parameter(part[2:], inspect.Parameter.VAR_KEYWORD)
        elif part.startswith("*"):
            yield inspect.Parameter(part[1:], inspect.Parameter.VAR_POSITIONAL)
            kind = inspect.Parameter.KEYWORD_ONLY
        elif part not in ("/", "self"):
            declared, _, default = part.partition("=")
            value = eval(default, {}) if default else inspect.Parameter.empty  # of CuPy's own documentation
            this = inspect.Parameter.POSITIONAL_ONLY if i < before_slash and not default else kind
            yield inspect.Parameter(declared.split()[-1], this, default=value)


if __name__ == "__main__":
    main()
