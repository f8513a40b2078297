"""The training loop and the evaluation. What a run writes to disk, checkpoints among it, is in `ministn.records`.

>>> trainer = Trainer(model, optimizer, train_loader, test_loader)  # doctest: +SKIP
>>> trainer.fit(epochs=10)  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ministn import functional as F
from ministn.autodiff import Tensor, no_grad
from ministn.backend import array_module, implementation, to_device
from ministn.graph import RecordedComputation
from ministn.kernels._cuda import recordable


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite. On the CPU no step was made from it; the GPU's is seen when losses are read."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised between two steps: the trainer is in a state worth saving."""


class Metrics:
    """Loss and accuracy over the images seen so far.

    What happened on the GPU stays there until somebody asks for a number, which waits for the GPU.

    Parameters
    ----------
    images : int
        How many were seen.
    loss_sum : float
        The sum of their losses.
    correct : int
        How many of them have their own class as the most probable one.

    Attributes
    ----------
    loss : float
        Mean over the images.
    accuracy : float
        From 0 to 1.
    """

    def __init__(self, images: int = 0, loss_sum: float = 0.0, correct: int = 0) -> None:
        self.images, self._loss_sum, self._correct = images, loss_sum, correct
        self._unread: _Unread | None = None

    @property
    def loss_sum(self) -> float:
        self.read()
        return self._loss_sum

    @property
    def correct(self) -> int:
        self.read()
        return self._correct

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.images, 1)

    def add(self, log_probabilities: Tensor, labels: Any, loss: Tensor) -> None:
        """Count a batch, whose mean loss is `loss`; on the GPU without waiting for it.

        Labels that are not a class for each image, such as boxes, are never correct.
        """
        labels = labels.data if isinstance(labels, Tensor) else labels
        self.images += len(labels)
        if loss.device == "cpu":
            classes = np.ndim(labels) == 1
            correct = int((log_probabilities.data.argmax(axis=1) == labels).sum()) if classes else 0
            self._add(len(labels), loss.item(), correct)
            return
        if self._unread is None:
            self._unread = _Unread(loss.data)
        elif self._unread.full():
            self.read()
        table = log_probabilities.data
        if labels.ndim != 1:  # boxes: labels that no class has
            xp = array_module(table)
            table, labels = table.reshape(len(table), -1), xp.full(len(labels), -1, np.int64)
        self._unread.add(table, labels, loss.data)

    def read(self) -> list[float]:
        """Fetch what is still on the GPU, after waiting for it; the losses of the batches that this adds, in order."""
        batches = [] if self._unread is None else self._unread.read()
        for batch in batches:
            self._add(*batch)
        return [loss for _, loss, _ in batches]

    def as_dict(self) -> dict[str, float]:
        """The numbers from which an equal object can be made."""
        return {"images": self.images, "loss_sum": self.loss_sum, "correct": self.correct}

    def _add(self, images: int, loss: float, correct: int) -> None:
        self._loss_sum += loss * images
        self._correct += correct


class _Unread:
    """A slot for the loss and the right answers of each batch, in the memory of the GPU."""

    slots = 4096  # steps that may pass before somebody has to wait: more than an epoch of MNIST has

    def __init__(self, loss: Any) -> None:
        xp = array_module(loss)
        self.losses, self.correct = xp.zeros(self.slots, loss.dtype), xp.zeros(self.slots, np.int32)
        self.count = xp.zeros(1, np.int32)  # of the slots that are used; the GPU counts, the host knows it anyway
        self.images: list[int] = []  # of each batch

    def full(self) -> bool:
        return len(self.images) == self.slots

    def add(self, log_probabilities: Any, labels: Any, loss: Any) -> None:
        scores = implementation("ministn.ops.scores", loss)
        scores.record_(self.losses, self.correct, self.count, loss, log_probabilities, labels)
        self.images.append(len(labels))

    def read(self) -> list[tuple[int, float, int]]:
        """Images, loss and right answers of each batch; the slots are free then."""
        if not self.images:
            return []
        parts = (to_device(array[: len(self.images)], "cpu").tolist() for array in (self.losses, self.correct))
        batches = list(zip(self.images, *parts, strict=True))
        self.images.clear()
        self.count.fill(0)
        return batches


def evaluate(model: Any, loader: Any) -> Metrics:
    """Loss and accuracy of `model` on every image of `loader`, without dropout.

    Parameters
    ----------
    model : Module
        Returns log-probabilities (N, K); it is left in evaluation mode.
    loader : DataLoader

    Returns
    -------
    Metrics
    """
    model.eval()
    metrics = Metrics()
    with no_grad():
        for images, labels in loader.batches():
            log_probabilities = model(images)
            metrics.add(log_probabilities, labels, F.nll_loss(log_probabilities, labels))
    return metrics


@dataclass
class Trainer:
    """Trains `model` and remembers how far it is.

    On the GPU, steps are queued and nobody waits for them: losses are read by `read_metrics`, at the end of an epoch if
    not before. A loss that is not finite is found there, after steps have been made with it: the weights are spoilt
    then, unlike on the CPU, where such a step is not made.

    Parameters
    ----------
    model : Module
        Returns log-probabilities (N, K).
    optimizer : Optimizer
        Of the model's parameters.
    train_loader, test_loader : DataLoader
    schedule : Schedule, optional
        Of the optimizer; moved on by one after every step.
    loss : callable, by keyword
        What is minimised, from log-probabilities and labels; the evaluation has the plain `nll_loss`.
    average : ExponentialMovingAverage, by keyword, optional
        Of the model's weights; moved on after every step. The evaluation is then that of the average.
    capture : bool
        On the GPU: record forward and backward pass as a CUDA graph, in the second step with a batch of a shape, and
        launch that from then on. It saves the time that Python needs to launch each kernel. The model must do the same
        in every step and read nothing back. The dense layers use a kernel of ministn in place of cuBLAS.

    Attributes
    ----------
    epoch : int
        How many are complete.
    step : int
        How many steps of the current epoch are done.
    seconds : float
        Time spent on them.
    metrics : Metrics
        Of the current epoch's training images so far.
    history : list of dict
        For each complete epoch its number, from 1, and ``train_loss``, ``train_accuracy`` (while learning: with
        dropout, over weights that change), ``test_loss``, ``test_accuracy``, ``images_per_second`` and ``seconds``
        (of training alone).
    """

    model: Any
    optimizer: Any
    train_loader: Any
    test_loader: Any
    schedule: Any = None
    capture: bool = False
    loss: Callable[[Tensor, Any], Tensor] = field(default=F.nll_loss, kw_only=True)
    average: Any = field(default=None, kw_only=True)
    epoch: int = field(default=0, init=False)
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    metrics: Metrics = field(default_factory=Metrics, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)
    _recorded: dict[tuple[int, ...], RecordedComputation | None] = field(default_factory=dict, init=False, repr=False)

    def fit(
        self,
        epochs: int,
        on_step: Callable[[Trainer], None] = lambda trainer: None,
        on_epoch: Callable[[Trainer], None] = lambda trainer: None,
    ) -> list[dict[str, float]]:
        """Train until `epochs` epochs are complete, counting those before a resume; returns `history`.

        Parameters
        ----------
        epochs : int
        on_step, on_epoch : callable
            Called with the trainer after every step, and after every epoch's evaluation.

        Raises
        ------
        NonFiniteLossError
            If the loss is NaN or infinite.
        Interrupted
            After Ctrl-C, once the step or the evaluation is complete (a second Ctrl-C raises KeyboardInterrupt at
            once).
        """
        with (
            threadpool_limits(limits=1, user_api="blas"),  # beside the Numba kernels threaded BLAS stalls for ms
            np.errstate(over="ignore", invalid="ignore"),  # NonFiniteLossError says it in their place
            _interrupted_between_steps() as raise_if_interrupted,
        ):
            while self.epoch < epochs:
                self.train_loader.epoch = self.epoch
                start = time.perf_counter()
                for images, labels in self.train_loader.batches(start=self.step):
                    self.train_step(images, labels)
                    self.seconds += time.perf_counter() - start  # with the making of the batch, without on_step
                    on_step(self)
                    raise_if_interrupted()
                    start = time.perf_counter()
                self._complete_epoch()
                on_epoch(self)
                raise_if_interrupted()
        return self.history

    def train_step(self, images: Tensor, labels: Any) -> None:
        """One step down the gradient of one batch's loss; on the GPU it may still be under way afterwards."""
        if not self.model.training:
            self.model.train()
        log_probabilities, loss = self._gradients(images, labels)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update()
        self.metrics.add(log_probabilities, labels, loss)
        self.step += 1

    def _gradients(self, images: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        """The log-probabilities, the loss, and in `grad` of all parameters its gradients."""
        if not self.capture or images.device == "cpu":
            return self._computed(images, labels)
        recorded, seen = self._recorded.get(images.shape), images.shape in self._recorded
        if recorded is None and seen:
            tensors = [*self.model.parameters(), *self.model.buffers()]
            recorded = RecordedComputation(self._computed, tensors, images, labels)
            self._recorded[images.shape] = recorded
        if recorded is None or not recorded.is_valid():  # the first time, or the model's arrays are others now
            self._recorded[images.shape] = None
            with recordable():
                return self._computed(images, labels)
        log_probabilities, loss = recorded.run(images, labels)
        return log_probabilities, loss

    def _computed(self, images: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        log_probabilities = self.model(images)
        loss = self.loss(log_probabilities, labels)
        if loss.device == "cpu":
            self._check_finite(loss.item(), f"step {self.step + 1}")
        loss.backward()
        return log_probabilities, loss

    def read_metrics(self) -> Metrics:
        """The metrics so far, once the GPU has made the steps that were queued; it counts as time of the training.

        Raises
        ------
        NonFiniteLossError
            If one of the losses is NaN or infinite.
        """
        start = time.perf_counter()
        losses = self.metrics.read()
        self.seconds += time.perf_counter() - start
        for step, loss in enumerate(losses, self.step - len(losses) + 1):
            self._check_finite(loss, f"step {step}")
        self._check_finite(self.metrics.loss, f"a step up to {self.step}")  # of those that were read before
        return self.metrics

    def _complete_epoch(self) -> None:
        train = self.read_metrics()
        self.test_loader.epoch = self.epoch  # after a resume too, where its batches are drawn anew in every epoch
        with self.average.applied() if self.average is not None else contextlib.nullcontext():
            test = evaluate(self.model, self.test_loader)
        self._check_finite(test.loss, "the evaluation")
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": train.loss,
                "train_accuracy": train.accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "images_per_second": train.images / max(self.seconds, 1e-9),
                "seconds": self.seconds,
            }
        )
        self.epoch, self.step, self.seconds, self.metrics = self.epoch + 1, 0, 0.0, Metrics()

    def _check_finite(self, loss: float, where: str) -> None:
        if not np.isfinite(loss):
            rates = ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups)
            raise NonFiniteLossError(
                f"the loss is {loss} in epoch {self.epoch + 1}, {where}, "
                f"with learning rate {rates}: the weights have diverged; try a smaller learning rate, "
                "or find the operation with ministn.detect_anomaly"
            )


@contextlib.contextmanager
def _interrupted_between_steps() -> Iterator[Callable[[], None]]:
    """Within the block, Ctrl-C waits until the function that is given is called, which then raises Interrupted."""
    asked = False

    def remember(signal_number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def raise_if_interrupted() -> None:
        if asked:
            raise Interrupted

    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_if_interrupted  # somebody else handles Ctrl-C
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
