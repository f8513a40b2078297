"""A running mean of the weights, which is often better than the weights of any one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ministn.backend import Array, array_module, to_device
from ministn.optim.optimizer import checked_number


class ExponentialMovingAverage:
    r"""A mean of a model's weights over the last steps, in which older ones count less and less.

    .. math:: a \leftarrow d_t\, a + (1 - d_t)\, w, \quad d_t = \min\left(d, \frac{1 + t}{10 + t}\right)

    after step t = 1, 2, ... With d = 0.999 it reaches back about a thousand steps; while t is small it reaches back
    less, so that the weights from before the training are soon forgotten. Buffers of numbers, such as the running
    means of batch normalisation, are averaged with the weights; integers are taken as they are.

    Parameters
    ----------
    model : Module
        Its weights are copied now and read at each `update`; only `applied` changes them.
    decay : float
        d, from 0 (no memory) to below 1.

    Examples
    --------
    >>> average = ExponentialMovingAverage(model)  # doctest: +SKIP
    >>> optimizer.step(), average.update()  # after every step  # doctest: +SKIP
    >>> with average.applied():  # doctest: +SKIP
    ...     evaluate(model, test_loader)

    References
    ----------
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging"; with a decay, and the smaller
    one at first, as in TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, model: Any, decay: float = 0.999) -> None:
        self.model = model
        self.decay = checked_number("ExponentialMovingAverage", "decay", decay, 1)
        self.updates = 0
        self._average = {name: tensor.data.copy() for name, tensor in model.state_dict().items()}

    def update(self) -> None:
        """Move the average towards what the weights are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, weight in self._weights():
            average = self._average[name]
            if average.dtype.kind == "f":
                average *= decay
                average += (1 - decay) * weight
            else:
                average[...] = weight

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards those that it had before."""
        weights = list(self._weights())
        before = [weight.copy() for _, weight in weights]
        for name, weight in weights:
            weight[...] = self._average[name]
        try:
            yield
        finally:
            for (_, weight), value in zip(weights, before, strict=True):
                weight[...] = value

    def _weights(self) -> Iterator[tuple[str, Array]]:
        """Name and array of each weight of the model, to whose device its average is brought."""
        for name, tensor in self.model.state_dict().items():
            self._average[name] = to_device(self._average[name], tensor.device)
            yield name, tensor.data

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, as NumPy arrays by name under ``"weights"``, and the number of ``"updates"``."""
        weights = {name: to_device(average, "cpu").copy() for name, average in self._average.items()}
        return {"weights": weights, "updates": self.updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; on any error nothing is changed.

        Raises
        ------
        ValueError
            If names, shapes or dtypes are not those of the model, or the number of updates is none.
        """
        where = "ExponentialMovingAverage.load_state_dict"
        weights, updates = state_dict["weights"], state_dict["updates"]
        if set(weights) != set(self._average):
            raise ValueError(f"{where}: expected the weights {sorted(self._average)}, got {sorted(weights)}")
        for name, own in self._average.items():
            got = weights[name]
            if got.shape != own.shape or got.dtype != own.dtype:
                raise ValueError(f"{where}: expected {name} as {own.dtype} {own.shape}, got {got.dtype} {got.shape}")
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 0:
            raise ValueError(f"{where}: expected a non-negative number of updates, got {updates!r}")
        self.updates = updates
        for name, own in self._average.items():
            own[...] = array_module(own).asarray(weights[name])
