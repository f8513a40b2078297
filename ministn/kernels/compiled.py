"""How loops are compiled, kept on disk, and shared out over the threads.

A kernel is two compiled functions: what one parallel iteration does, and the loop over the iterations:

    @compiled
    def _row(i, x, y):
        y[i] = 2 * x[i]

    @compiled
    def _rows(x, y):
        parallel_for(_row, len(x), (x, y))      # for i in range(len(x)): _row(i, x, y)

Numba's own ``prange`` means the same, but compiles the loop's body four times over, for different callers. Here it is
done twice, and whoever runs the package for the first time waits half as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic
from numba.np.ufunc.parallel import _launch_threads

from ministn.kernels._memory import keep_freed_memory

keep_freed_memory()
_launch_threads()  # makes `numba_parallel_for` and `get_num_threads` known to compiled code

# Not zero while the thread pool is at work, and for ever in a forked process. `parallel_for` then runs all items on the
# thread that calls it: Numba's pools end the process when a second thread comes (workqueue), or a forked child whose
# parent has used them (OpenMP).
_pool_is_taken = ctypes.c_int64(0)
binding.add_symbol("ministn_pool_is_taken", ctypes.addressof(_pool_is_taken))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(_pool_is_taken, "value", 1))

_SHARED = [Path(__file__).with_name(name) for name in ("compiled.py", "simd.py", "sampling.py")]
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SHARED)).hexdigest()


class _Cache(FunctionCache):
    """Numba's cache on disk, which looks at the time stamp of the function's file only. Here at the files that all
    kernels use, too: after an edit of one of them, nothing compiled before is taken from the disk.

    Two processes that save at the same moment may give the same number to code for different types of arguments. Numba
    would then run the wrong one of them; here it is not taken.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = (*self._cache_file._source_stamp, _DIGEST)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        try:
            result = super().load_overload(signature, target_context)
        except Exception:  # a file cut short, by a full disk, say: pickle's errors are of many kinds
            result = None
        else:
            if result is None or tuple(result.signature.args) == tuple(normalize_signature(signature)[0]):
                return result
        Path(self._cache_file._index_path).unlink(missing_ok=True)
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # the disk is full, or may not be written to any more
            super().save_overload(signature, data)


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "ministn: no folder for compiled kernels can be written to, so each process compiles them anew, for about half "
        "a minute: set NUMBA_CACHE_DIR to one that can",
        stacklevel=2,
    )


def compiled(function: Callable[..., Any] | None = None, *, fastmath: Any = False) -> Any:
    """Compile a function with Numba when it is first called, and keep the result on disk.

    Other Python threads may run meanwhile, and 1 / 0 is infinite, as in NumPy.

    Parameters
    ----------
    function : callable
        May call compiled functions of its own file, of this file, of `ministn.kernels.simd` and of
        `ministn.kernels.sampling`.
    fastmath : bool or set of str
        What LLVM may do that changes the last bits; see the rules of the house in README.md.
    """
    if function is None:
        return lambda function: compiled(function, fastmath=fastmath)
    # Without the wrapper that makes it a C function: nobody calls it so, and it would cost a sixth of the compilation.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "no_cfunc_wrapper": True}
    dispatcher: Any = njit(**options)(function)
    try:
        dispatcher._cache = _Cache(function)  # what cache=True would do, with Numba's own
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        _warn_of_no_cache()
    return dispatcher


@intrinsic
def parallel_for(typing: Any, kernel: Any, count: Any, arguments: Any) -> Any:
    """``kernel(item, *arguments)`` for each item in range(count), in equal, consecutive shares for the threads.

    While another Python thread uses the thread pool, in a forked process, and with one thread, the caller runs all
    shares itself.

    Parameters
    ----------
    kernel : compiled function
        Items run in any order and at the same time: none may write what another reads or writes. Returns nothing.
    count : int
    arguments : tuple
    """
    call = kernel.get_call_type(typing, (types.intp, *arguments.types), {})

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # Numba's thread pool calls `share`, a C function, for numbers 0 to threads - 1: from a pointer that it moves
        # by one byte for each, of which only the address counts. All else comes through `shared`.
        count = context.cast(builder, values[1], signature.args[1], types.intp)
        threads = builder.call(_declare(builder, "get_num_threads", _INT, []), [])
        shared = cgutils.alloca_once_value(
            builder, cgutils.pack_struct(builder, [count, threads, ir.Constant(_INT, 0), values[2]])
        )
        share = _define_share(context, builder.module, kernel, call, shared.type)
        zero, one = ir.Constant(_INT, 0), ir.Constant(_INT, 1)
        share_arguments = [
            cgutils.alloca_once_value(builder, ir.Constant(_POINTER, None)),
            cgutils.alloca_once_value(builder, threads),  # how many calls
            cgutils.alloca_once_value(builder, one),  # bytes from one call's pointer to the next
            builder.bitcast(shared, _POINTER),
        ]
        taken = cgutils.add_global_variable(builder.module, _INT, "ministn_pool_is_taken")
        alone = builder.icmp_signed("==", threads, one)
        with builder.if_else(alone) as (if_alone, otherwise):
            with if_alone:
                builder.call(share, share_arguments)
            with otherwise:
                before = builder.extract_value(builder.cmpxchg(taken, zero, one, "seq_cst", "seq_cst"), 0)
                with builder.if_else(builder.icmp_signed("==", before, zero)) as (if_free, if_taken):
                    with if_free:
                        pool = _declare(builder, "numba_parallel_for", ir.VoidType(), _POOL_ARGUMENTS)
                        dimensions, moving = zero, one  # no inner dimensions; one pointer moves
                        of_pool = dimensions, moving, builder.trunc(threads, ir.IntType(32))
                        builder.call(pool, [builder.bitcast(share, _POINTER), *share_arguments, *of_pool])
                        builder.store_atomic(zero, taken, "seq_cst", 8)
                    with if_taken:
                        builder.call(share, share_arguments)
        failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, 2))
        with cgutils.if_unlikely(builder, builder.icmp_signed("!=", failed, zero)):
            context.call_conv.return_user_exc(builder, RuntimeError, ("parallel_for: an iteration raised an error",))
        return context.get_dummy_value()

    return types.void(kernel, count, arguments), generate


_INT, _POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
# share(pointers, calls, steps, shared)
_SHARE_ARGUMENTS = [_POINTER.as_pointer(), _INT.as_pointer(), _INT.as_pointer(), _POINTER]
# numba_parallel_for(share, pointers, calls, steps, shared, inner dimensions, number of pointers, threads)
_POOL_ARGUMENTS = [_POINTER, *_SHARE_ARGUMENTS, _INT, _INT, ir.IntType(32)]


def _declare(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _define_share(context: Any, module: Any, kernel: Any, call: Any, shared_type: Any) -> Any:
    """The C function that runs the items of one share, or of several that follow each other."""
    function_type = ir.FunctionType(ir.VoidType(), _SHARE_ARGUMENTS)
    function = ir.Function(module, function_type, name=module.get_unique_name("share"))
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    pointers, calls, _, data = function.args
    shared = builder.bitcast(data, shared_type)
    count, threads, _, arguments = (builder.load(cgutils.gep_inbounds(builder, shared, 0, field)) for field in range(4))
    first = builder.ptrtoint(builder.load(pointers), _INT)
    last = builder.add(first, builder.load(calls))
    start, stop = (builder.sdiv(builder.mul(count, share), threads) for share in (first, last))
    compiled_kernel = kernel.dispatcher.get_compile_result(call)
    context.active_code_library.add_linking_library(compiled_kernel.library)
    code = context.declare_function(module, compiled_kernel.fndesc)
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(_INT, 1), inc=True) as (item, _):
        values = [item, *cgutils.unpack_tuple(builder, arguments)]
        status, _ = context.call_conv.call_function(builder, code, call.return_type, call.args, values)
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(ir.Constant(_INT, 1), cgutils.gep_inbounds(builder, shared, 0, 2))
    builder.ret_void()
    return function
