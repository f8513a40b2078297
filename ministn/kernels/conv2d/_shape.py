"""How large the output of a convolution is."""

from __future__ import annotations

from collections.abc import Sequence

Pair = tuple[int, int]


def output_size(size: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(OH, OW): how many windows fit below and beside each other; less than 1 where none fits."""
    rows, columns = ((size[a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(2))
    return rows, columns
