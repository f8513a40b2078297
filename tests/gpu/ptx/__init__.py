"""An interpreter of PTX, the assembly language that NVIDIA's compiler emits: what a GPU would be given, run by NumPy.

>>> kernels = parse(nvrtc.compile(source, options, "75", "ptx")[0])  # doctest: +SKIP
>>> launch(kernels["affine_grid_forward"], blocks, threads, [grid, theta, x, y, N, H, W])  # doctest: +SKIP

A value of the kernel is an array here, with a number for each thread of some blocks; an instruction is a few calls of
NumPy for the threads that are at it. Those that have come least far go on, so that after a branch all meet again.

It is stricter than a GPU. Reading a register or a local variable's place that nobody has written, an access outside the
arrays or misaligned, a division by zero, a barrier that some threads never reach: each raises a PtxError that names the
thread and the instruction. Shared memory is full of NaN at the start. What it does not know raises one too.

``.approx`` functions (of which GPUs promise one or two units in the last place) are rounded correctly here.
"""

from ptx.machine import launch
from ptx.parsing import Instruction, Kernel, PtxError, parse

__all__ = ["Instruction", "Kernel", "PtxError", "launch", "parse"]
