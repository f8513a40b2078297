"""NVIDIA's run-time compiler, which needs no GPU, called as CuPy calls it.

>>> cubin, log = compile(source("ministn.kernels.affine_grid"), options("float32"), "75")  # doctest: +SKIP
>>> resources(log)["affine_grid_forward"].registers  # doctest: +SKIP
30

The compiler is a library in the wheel `nvidia-cuda-nvrtc` (or `nvidia-cuda-nvrtc-cu12`), which depends on nothing.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

import ministn

ARCHITECTURES = ("75", "80", "90", "120")  # compute capabilities 7.5 (Turing) to 12.0 (Blackwell)
WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
_SUCCESS = 0


class CompileError(RuntimeError):
    """What the compiler found wrong: its log, as it is."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes, as ptxas says: of each thread, except for `shared`, which is of each block."""

    registers: int
    shared: int  # bytes of static shared memory
    stack: int  # bytes of local memory: arrays that did not fit in registers
    spills: int  # bytes moved out of registers and back


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if _library() is None:
        return f"NVRTC is not installed: python -m pip install {WHEELS[0]}"
    return None


def packages() -> list[str]:
    """All kernel families that have a ``cuda.cu``, such as ``"ministn.kernels.affine_grid"``."""
    root = Path(ministn.__file__).parent
    return sorted(".".join(file.parent.relative_to(root.parent).parts) for file in root.rglob("cuda.cu"))


def version() -> tuple[int, int]:
    """Of the compiler."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def architectures() -> tuple[str, ...]:
    """Those of `ARCHITECTURES` that this version of the compiler knows."""
    count = ctypes.c_int()
    _call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    _call("nvrtcGetSupportedArchs", known)
    return tuple(arch for arch in ARCHITECTURES if int(arch) in list(known))


@functools.cache
def compile(source: str, options: tuple[str, ...] = (), arch: str = "75", kind: str = "cubin") -> tuple[bytes, str]:
    """Compile CUDA C++, once for the same arguments.

    Parameters
    ----------
    source : str
    options : tuple of str
        Beside those that CuPy adds to all of them.
    arch : str
        The compute capability, without the point.
    kind : {"cubin", "ptx"}
        Machine code, or the assembly language it is made from.

    Returns
    -------
    code : bytes
    log : str
        Warnings and, of a cubin, what `resources` reads.

    Raises
    ------
    CompileError
    """
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"cuda.cu", 0, None, None)
    try:
        every = [option.encode() for option in (*options, *_options_of_cupy(arch, kind), *_options_of_log(kind))]
        result = _library().nvrtcCompileProgram(program, len(every), (ctypes.c_char_p * len(every))(*every))
        log = _output(program, "ProgramLog").rstrip(b"\0").decode()
        if result != _SUCCESS:
            raise CompileError(f"{_meaning(result)}\n{log}")
        code = _output(program, "CUBIN" if kind == "cubin" else "PTX")
        return code if kind == "cubin" else code.rstrip(b"\0"), log
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def resources(log: str) -> dict[str, Resources]:
    """What each kernel takes, from the log of `compile` to a cubin."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        # Functions that are called, and not inlined, have lines of their own: the sum is what the kernel may take.
        stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        used = re.search(r"Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", part)
        assert used, part
        stack = sum(int(frame) for frame, _, _ in stacks)
        spills = sum(int(stores) + int(loads) for _, stores, loads in stacks)
        found[name] = Resources(int(used[1]), int(used[2] or 0), stack, spills)
    return found


def _options_of_cupy(arch: str, kind: str) -> tuple[str, ...]:
    # CuPy 14, cupy/cuda/compiler.py: _compile_with_cache_cuda and _compile_using_nvrtc_no_warning. What it adds besides
    # are folders of headers, which no kernel here includes: test_nvrtc.py compiles with them where CuPy is installed.
    target = "sm" if kind == "cubin" else "compute"
    return ("-ftz=true", f"-arch={target}_{arch}", "--device-as-default-execution-space")


def _options_of_log(kind: str) -> tuple[str, ...]:
    return ("--ptxas-options=-v",) if kind == "cubin" else ()


@functools.cache
def _library() -> ctypes.CDLL | None:
    for wheel in WHEELS:
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libnvrtc\.so\.\d+", file.name):
                path = Path(str(file.locate())).resolve()
                for part in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(part))  # the compiler looks for it by name, and finds what is loaded
                return ctypes.CDLL(str(path))
    return None


def _call(function: str, *arguments: object) -> None:
    _check(getattr(_library(), function)(*arguments), function)


def _check(result: int, function: str) -> None:
    if result != _SUCCESS:
        raise RuntimeError(f"{function}: {_meaning(result)}")


def _meaning(result: int) -> str:
    say = _library().nvrtcGetErrorString
    say.restype = ctypes.c_char_p
    return say(result).decode()


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw
