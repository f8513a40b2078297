"""Ways to damage a file: edits of its bytes, of the JSON in it, of the header of a safetensors file."""

from __future__ import annotations

import json
from typing import Any

ODD_BYTES = [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8, b"\0" * 8, b"{", b"[" * 50, b'"', b"-1"]
ODD_VALUES: list[Any] = [None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\ud800", [], {}]
ODD_VALUES += [[[]], {"a": 1}, "9" * 5000, 2**31, 2**63, ["a", 1]]

Edit = tuple[int, int, int]  # what, where and with what; any integers


def damage(content: bytes, edits: list[Edit]) -> bytes:
    """The content after the edits, one after another."""
    for what, where, which in edits:
        at = where % (len(content) + 1)
        length = 1 + which % 64
        match what % 6:
            case 0 if at < len(content):
                content = content[:at] + bytes([content[at] ^ 1 << which % 8]) + content[at + 1 :]
            case 1:
                content = content[:at] + content[at + length :]
            case 2:
                content = content[:at] + content[at : at + length] + content[at:]
            case 3:
                odd = ODD_BYTES[which % len(ODD_BYTES)]
                content = content[:at] + odd + content[at + len(odd) :]
            case 4:
                content = content[:at] + ODD_BYTES[which % len(ODD_BYTES)] + content[at:]
            case 5 if which % 4 == 0:  # seldom, since little is left then for other edits
                content = content[:at]
    return content


def damage_json(value: Any, edits: list[Edit]) -> Any:
    """The value with some of its parts removed or replaced."""
    for what, where, which in edits:
        places: list[tuple[Any, Any]] = []
        stack = [value]
        while stack:
            part = stack.pop()
            if isinstance(part, (dict, list)):
                keys = list(part) if isinstance(part, dict) else range(len(part))
                places += [(part, key) for key in keys]
                stack += [part[key] for key in keys]
        if not places:
            break
        part, key = places[where % len(places)]
        if what % 4 == 0:
            del part[key]
        else:
            part[key] = json.loads(json.dumps(ODD_VALUES[which % len(ODD_VALUES)]))
    return value


def damage_header(content: bytes, edits: list[Edit]) -> bytes:
    """A safetensors file with another header."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(damage_json(json.loads(content[8 : 8 + length]), edits)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
