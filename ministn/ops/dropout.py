"""Dropout (Srivastava et al. 2014): multiply by a random mask that is 1 on average."""

from __future__ import annotations

import numpy as np

from ministn import random
from ministn.autodiff import Tensor
from ministn.backend import array_module
from ministn.ops.arithmetic import Multiply


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Each element set to zero with probability `p`, the others divided by 1 - p; unchanged outside training."""
    return _masked("dropout", input, input.shape, p, training)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Whole channels of an (N, C, H, W) image set to zero with probability `p`, the others divided by 1 - p.

    Neighbouring pixels of a feature map say nearly the same; dropping single ones would hide little.
    """
    if input.ndim != 4:
        raise ValueError(f"dropout2d: expected an input (N, C, H, W), got shape {input.shape}")
    return _masked("dropout2d", input, (*input.shape[:2], 1, 1), p, training)


def _masked(name: str, input: Tensor, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability 0 <= p <= 1, got {p}")
    if not training or p == 0:
        return input
    keep = random.generator().random(shape, dtype=np.float32) >= p  # drawn on the CPU: one sequence on every device
    scale = (keep / (1 - p) if p < 1 else keep).astype(input.dtype)  # p = 1 keeps none
    # The batch as the fastest axis of the scale, as it is of most images: NumPy then multiplies run by run.
    return Multiply.apply(input, Tensor(array_module(input.data).asarray(scale, order="F")))
