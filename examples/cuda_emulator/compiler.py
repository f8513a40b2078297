"""Building a shared library from a .cu file with g++, once: results are kept on the disk."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from cuda_emulator import translate

HERE = Path(__file__).resolve().parent
SANITIZERS = ("address", "thread", "trace")

_FLAGS = {
    None: ("-O2", "-fno-tree-vectorize"),
    "address": (
        "-O1",
        "-g",
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=undefined,float-cast-overflow",
        "-fno-omit-frame-pointer",
        "-static-libubsan",  # each its own: only then its reports go to the file that UBSAN_OPTIONS names
        "-Wl,-Bsymbolic",
    ),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
    "trace": ("-O0", "-g", "-fsanitize=thread", "-DCUDA_EMULATOR_TRACE"),
}
_IGNORED_OPTIONS = ("--gpu-architecture=", "-arch=", "-lineinfo", "--generate-line-info", "-G", "--ptxas-options=")


class EmulationError(RuntimeError):
    """A kernel did what a device would not forgive; the message names kernel, thread and line."""


class CompileError(EmulationError):
    """g++ refused the kernels; the message has its words."""


class NoCompilerError(EmulationError):
    """There is no C++ compiler on this machine."""


@functools.cache
def find_compiler() -> str:
    """The path of g++, or of what the environment variable ``CXX`` names.

    Raises
    ------
    NoCompilerError
        If there is none.
    """
    path = shutil.which(os.environ.get("CXX", "g++"))
    if path is None:
        raise NoCompilerError("no C++ compiler: install g++ (Debian, Ubuntu: apt install g++), or set CXX")
    return path


def cache_folder() -> Path:
    """``MINISTN_EMULATOR_CACHE``, or a folder in the user's cache."""
    given = os.environ.get("MINISTN_EMULATOR_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ministn" / "cuda_emulator"


def build_kernels(source: str, options: Sequence[str], sanitizer: str | None, file: str) -> Path:
    """A shared library with the kernels of a source, whose name is `file` in messages.

    Raises
    ------
    CompileError
        With what g++ says, in the lines of the source.
    ValueError
        If an option is not known.
    """
    entries = "".join(
        f"CUDA_EMULATOR_KERNEL({kernel.name}, {kernel.most_threads})\n" for kernel in translate.kernels(source)
    )
    code = f'#include "cuda_language.h"\n#line 1 "{file}"\n{translate.translate(source)}\n'
    code += f'#line 1 "{HERE}/entries"\n{entries}'
    command = [
        find_compiler(),
        "-fPIC",
        "-w",
        "-fno-strict-aliasing",
        "-fno-threadsafe-statics",
        "-fvisibility=hidden",
        f"-I{HERE / 'language'}",
    ]
    command += [*_FLAGS[sanitizer], *_option_flags(options), *_machine_flags()]
    libraries = [build_runtime()]
    if (
        sanitizer == "trace"
    ):  # hooks of our own take the place of the sanitizer's library: compile, then link without it
        unlinked = _build("kernels", ".o", [*command, "-c"], code)
        libraries = [unlinked, _build_trace_hooks(), *libraries]
        command, code = [find_compiler()], ""
    return _build(re.sub(r"\W+", "-", file), ".so", [*command, "-shared"], code, libraries)


@functools.cache
def build_runtime() -> Path:
    """The scheduler: one library for all kernels, built without sanitizers, which must not see it at work."""
    sources = [HERE / "runtime" / name for name in ("fiber.cpp", "scheduler.cpp", "shared_memory.cpp")]
    code = "".join(f'#include "{path}"\n' for path in sources)
    return _build("runtime", ".so", [find_compiler(), "-std=c++17", "-O2", "-fPIC", "-shared"], code)


@functools.cache
def _build_trace_hooks() -> Path:
    code = f'#include "{HERE / "runtime" / "trace.cpp"}"\n'
    return _build("trace", ".o", [find_compiler(), "-std=c++17", "-O2", "-fPIC", "-c"], code)


def _build(stem: str, suffix: str, command: list[str], code: str, libraries: Sequence[Path] = ()) -> Path:
    """Runs a command, and what ``CXXFLAGS`` adds to it, on `code` and built libraries, unless that was done before.

    Processes may build the same at the same time: each writes a file of its own and renames it.
    """
    command = [*command, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    key = "\0".join([code, *command, *map(str, libraries), _own_sources()])
    path = cache_folder() / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:20]}{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, result = Path(folder) / "kernels.cpp", Path(folder) / path.name
        source.write_text(code)
        inputs = [str(source)] if code else []
        if suffix == ".so":  # found by its name, in the folder of whoever needs it
            command = [*command, f"-Wl,-soname,{path.name}", "-Wl,-rpath,$ORIGIN"]
        run = subprocess.run(
            [*command, *inputs, *map(str, libraries), "-o", str(result)],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        if run.returncode:
            raise CompileError(f"{stem} does not compile:\n{run.stderr.strip()}")
        os.replace(result, path)
    return path


@functools.cache
def _own_sources() -> str:
    """What else a result depends on: the emulator's own files, and the compiler."""
    files = sorted([*HERE.glob("language/*.h"), *HERE.glob("runtime/*")])
    version = subprocess.run([find_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return version + "".join(path.read_text() for path in files)


@functools.cache
def _machine_flags() -> tuple[str, ...]:
    """The processor's own fused multiply-add, where it has one: in software it takes a hundred times as long."""
    information = Path("/proc/cpuinfo")
    has_fma = information.exists() and re.search(r"^flags.*\bfma\b", information.read_text(), re.MULTILINE)
    return ("-mfma",) if has_fma else ()


def _option_flags(options: Iterable[str]) -> list[str]:
    """Options of NVRTC, as g++ knows them."""
    flags = ["-std=c++17", "-ffp-contract=fast"]  # by default NVRTC, too, makes a b + c one fused operation
    for option in options:
        if option.startswith(("-D", "-U")):
            flags.append(option)
        elif option.startswith(("--define-macro=", "--undefine-macro=")):
            flags.append("-" + option[2].upper() + option.split("=", 1)[1])
        elif re.match("--?std=", option):
            flags[0] = "-std=" + option.split("=")[1]
        elif option in ("--fmad=false", "-fmad=false"):
            flags[1] = "-ffp-contract=off"
        elif not option.startswith(_IGNORED_OPTIONS) and not re.match("--?(fmad|ftz|use_fast_math)", option):
            raise ValueError(f"option {option!r} is not known to the emulator")
    return flags


def flushes_denormals(options: Iterable[str]) -> bool:
    """Whether NVRTC would compile for a device that turns denormal float32 numbers into zeros."""
    return any(re.match("--?(ftz=true|use_fast_math)", option) for option in options)
