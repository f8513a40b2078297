"""detect_anomaly: the operation in which the first NaN appeared, and what went into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from ministn.autodiff import Function, Tensor
from ministn.autodiff.function import observed_by
from ministn.backend import Array, array_module


class AnomalyError(ArithmeticError):
    """A NaN appeared inside `detect_anomaly`; the message names the operation and the tensors."""


@contextlib.contextmanager
def detect_anomaly(named: Iterable[tuple[str, Tensor]] = ()) -> Iterator[None]:
    """Within the block, the first operation that makes a NaN raises AnomalyError, in the forward or backward pass.

    Every output and every gradient is read once more, and on the GPU waited for. Infinities are no error, but the
    message counts them: a NaN mostly is inf - inf or 0 inf of an operation before.

    Parameters
    ----------
    named : iterable of (str, Tensor)
        Tensors that the message calls by name, such as ``model.named_parameters()``.

    Examples
    --------
    >>> with detect_anomaly(model.named_parameters()):  # doctest: +SKIP
    ...     loss = F.cross_entropy(model(images), labels)
    ...     loss.backward()
    """
    names = {id(tensor): f"{name}, " for name, tensor in named}

    def check_for_nan(
        function: Function, inputs: tuple[Tensor, ...], given: Array | None, made: tuple[Array | None, ...]
    ) -> None:
        where = next((index for index, array in enumerate(made) if array is not None and _count(array)[0]), None)
        if where is None:
            return
        parts = [f"input {index} ({names.get(id(t), '')}{_described(t.data)})" for index, t in enumerate(inputs)]
        parts += [] if given is None else [f"the output's gradient ({_described(given)})"]
        what = "the output" if given is None else f"the gradient of input {where}"
        raise AnomalyError(
            f"{type(function).__name__}.{'forward' if given is None else 'backward'}: NaN in {what} "
            f"({_described(made[where])}), computed from {', '.join(parts)}"
        )

    with observed_by(check_for_nan):
        yield


def _count(array: Array) -> tuple[int, int]:
    """How many NaN, how many infinities."""
    if array.dtype.kind != "f":
        return 0, 0
    xp = array_module(array)
    return int(xp.isnan(array).sum()), int(xp.isinf(array).sum())


def _described(array: Array) -> str:
    return f"shape {tuple(array.shape)}, " + "{} NaN, {} infinite".format(*_count(array))
