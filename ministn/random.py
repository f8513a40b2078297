"""The one source of randomness: initial weights, dropout masks and data order all follow from `manual_seed`."""

from __future__ import annotations

from typing import Any

import numpy as np

_generator = np.random.Generator(np.random.PCG64())


def manual_seed(seed: int) -> None:
    """Start the random sequence over from `seed`: the same seed gives the same weights, masks and batches."""
    global _generator
    _generator = np.random.Generator(np.random.PCG64(seed))


def generator() -> np.random.Generator:
    """The generator that ministn draws from."""
    return _generator


def get_state() -> dict[str, Any]:
    """The generator's state as plain numbers and strings, ready for JSON."""
    return dict(_generator.bit_generator.state)


def set_state(state: dict[str, Any]) -> None:
    """Continue the random sequence from where `get_state` was called."""
    _generator.bit_generator.state = state
