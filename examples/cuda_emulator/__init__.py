"""CUDA kernels on a CPU: g++ compiles the same .cu file, and a scheduler runs its blocks and threads, one at a time.

>>> kernels = build(source, ("--std=c++17", "-DNUMBER=float"))  # doctest: +SKIP
>>> kernels["affine_grid_forward"](blocks, threads, grid, theta, x, y, N, H, W)  # doctest: +SKIP

README.md says how it works, and what it cannot tell.
"""

from cuda_emulator.compiler import CompileError, EmulationError, NoCompilerError, find_compiler
from cuda_emulator.kernel import Kernel, build, launch_defaults, sparse_zeros

__all__ = [
    "CompileError",
    "EmulationError",
    "Kernel",
    "NoCompilerError",
    "build",
    "find_compiler",
    "launch_defaults",
    "sparse_zeros",
]
