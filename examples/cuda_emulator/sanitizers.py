"""Programs whose kernels are watched by AddressSanitizer and UndefinedBehaviorSanitizer, or by ThreadSanitizer.

These sanitizers take over memory allocation, so their library must be there before Python starts: the program runs in a
process of its own, with the library preloaded.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cuda_emulator.compiler import find_compiler

_LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
_NO_RANDOM_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2)


class Outcome(NamedTuple):
    """What became of a program."""

    returncode: int
    output: str  # what it printed, if that was captured
    reports: str  # of the sanitizers; empty if all is well


def run(sanitizer: str, command: Sequence[str], capture: bool = True, **environment: str) -> Outcome:
    """Runs a program, whose kernels are built with a sanitizer.

    Parameters
    ----------
    sanitizer : {"address", "thread"}
    command : sequence of str
        The program and its arguments.
    capture : bool
        Keep what it prints for `Outcome.output`, instead of letting it through.
    **environment
        More environment variables.
    """
    stream = subprocess.PIPE if capture else None
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **_environment(sanitizer, Path(folder) / "report"), **environment}
        result = subprocess.run(
            command,
            env=variables,
            stdout=stream,
            stderr=subprocess.STDOUT if capture else None,
            text=True,
            check=False,
            preexec_fn=_fixed_addresses,
        )
        reports = "".join(path.read_text(errors="replace") for path in sorted(Path(folder).iterdir()))
    return Outcome(result.returncode, result.stdout or "", reports)


def _environment(sanitizer: str, log: Path) -> dict[str, str]:
    return {
        "MINISTN_EMULATOR_SANITIZER": sanitizer,
        # The second, because a sanitizer looks at its start for what throws C++ exceptions: Python alone has none.
        "LD_PRELOAD": f"{_library_path(_LIBRARIES[sanitizer])} {_library_path('libstdc++.so.6')}",
        # Python leaks on purpose. Who asks for more memory than there is gets none, as usual, and is not ended.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
        # Only kernels are built for it: of how threads of other libraries wait for each other it sees too little.
        "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:exitcode=66:log_path={log}",
    }


def _library_path(name: str) -> str:
    command = [find_compiler(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if path == name:
        raise FileNotFoundError(f"the compiler has no {name}")
    return path


def _fixed_addresses() -> None:
    """ThreadSanitizer knows few memory layouts; on some systems random addresses fit none of them."""
    ctypes.CDLL(None).personality(_NO_RANDOM_ADDRESSES)
