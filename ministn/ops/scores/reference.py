"""The formula of the GPU's kernel, which it is tested against. On the CPU a loss is at hand when it is computed."""

from __future__ import annotations

from ministn.backend import Array


def record_(losses: Array, correct: Array, count: Array, loss: Array, table: Array, labels: Array) -> None:
    """losses[k] <- loss, correct[k] <- how many rows of `table` are largest at their label, with k = count; count + 1.

    Parameters
    ----------
    losses : array of the dtype of `loss`, shape (M,)
    correct : int32 array, shape (M,)
    count : int32 array, shape (1,)
        Less than M.
    loss : array of one element
    table : array, shape (N, K)
    labels : int64 array, shape (N,)
    """
    k = int(count[0])
    losses[k] = loss.reshape(())
    correct[k] = (table.argmax(axis=1) == labels).sum()
    count += 1
