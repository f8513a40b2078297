"""A computation on the GPU as a CUDA graph: recorded once, then repeated by a single launch.

The kernels of a small network take microseconds, and Python takes longer to launch one than the GPU to run it. A graph
holds them all. It repeats them with the same addresses and numbers, so what changes has to be in memory that stays
where it is: a batch is copied to where that of the recording was, and random masks are drawn anew before each run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ministn import random
from ministn.autodiff import Tensor
from ministn.backend import Array, array_module, deterministic
from ministn.kernels import _cuda

Computation = Callable[[Tensor, Array], tuple[Tensor, ...]]


class RecordedComputation:
    """``compute(images, labels)``, and the gradients that it leaves at `tensors`, to be repeated with other batches.

    Parameters
    ----------
    compute : callable
        Launches kernels and returns Tensors. It must do the same each time, whatever the values of the batch, wait for
        nothing, copy nothing between host and GPU, and have run within `ministn.kernels._cuda.recordable` before, so
        that all kernels are compiled and the tables they read are on the GPU.
    tensors : sequence of Tensor
        What `compute` reads or writes beside the batch: the parameters and buffers of a model.
    images : Tensor
    labels : cupy.ndarray
        A batch of the shape of those that will come.
    """

    def __init__(self, compute: Computation, tensors: Sequence[Tensor], images: Tensor, labels: Array) -> None:
        cupy = array_module(images.data)
        self._tensors, self._state = tensors, [(tensor.data, tensor.requires_grad) for tensor in tensors]
        self._generator, self._deterministic = random.generator(), deterministic()
        self._images, self._labels = images.data.copy(), labels.copy()
        # Memory that nobody else is given: the graph writes to it long after the arrays of its recording are gone.
        self._pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        with cupy.cuda.using_allocator(self._pool.malloc), stream, _cuda.recording() as self._before:
            stream.begin_capture()
            try:
                self._outputs = compute(Tensor(self._images), self._labels)
            except BaseException:
                with contextlib.suppress(Exception):  # it would say that the recording was broken off
                    stream.end_capture()
                raise
            self._graph = stream.end_capture()
        self._gradients = [tensor.grad for tensor in tensors]

    def is_valid(self) -> bool:
        """Whether the tensors, the random generator and the choice of kernels are still those of the recording."""
        pairs = zip(self._tensors, self._state, strict=True)
        same = all(tensor.data is data and tensor.requires_grad is grad for tensor, (data, grad) in pairs)
        return same and random.generator() is self._generator and deterministic() == self._deterministic

    def run(self, images: Tensor, labels: Array) -> tuple[Tensor, ...]:
        """Compute with this batch. The Tensors that are returned, and the gradients, are the same ones each time."""
        self._images[...] = images.data
        self._labels[...] = labels
        for work in self._before:
            work()
        self._graph.launch()
        for tensor, gradient in zip(self._tensors, self._gradients, strict=True):
            tensor.grad = gradient
        return self._outputs
