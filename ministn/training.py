"""The training loop, evaluation, and checkpoints from which a run continues bit for bit.

>>> trainer = Trainer(model, optimizer, train_loader, test_loader)  # doctest: +SKIP
>>> trainer.fit(epochs=10)  # doctest: +SKIP
>>> save_checkpoint("checkpoint.safetensors", trainer)  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from threadpoolctl import threadpool_limits

from ministn import functional as F
from ministn import random
from ministn.autodiff import Tensor, no_grad

CHECKPOINT_FORMAT = "ministn checkpoint"
CHECKPOINT_VERSION = 1


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or does not fit what it is loaded into."""


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; no step was made from it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised between two steps: the trainer is in a state worth saving."""


@dataclass
class Metrics:
    """Loss and accuracy over the images seen so far.

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

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    @property
    def loss(self) -> float:
        return self.loss_sum / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.images, 1)

    def add(self, log_probabilities: Tensor, labels: Any, loss: Tensor) -> None:
        """Count a batch, whose mean loss is `loss`."""
        labels = labels.data if isinstance(labels, Tensor) else labels
        self.images += len(labels)
        self.loss_sum += loss.item() * len(labels)
        self.correct += int((log_probabilities.data.argmax(axis=1) == labels).sum())


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

    Parameters
    ----------
    model : Module
        Returns log-probabilities (N, K).
    optimizer : Optimizer
        Of the model's parameters.
    train_loader, test_loader : DataLoader
    schedule : Schedule, optional
        Of the optimizer; moved on by one after every step.

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
    epoch: int = field(default=0, init=False)
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    metrics: Metrics = field(default_factory=Metrics, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)

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
        """One step down the gradient of one batch's loss."""
        self.model.train()
        self.optimizer.zero_grad()
        log_probabilities = self.model(images)
        loss = F.nll_loss(log_probabilities, labels)
        self._check_finite(loss.item(), f"step {self.step + 1}")
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.metrics.add(log_probabilities, labels, loss)
        self.step += 1

    def _complete_epoch(self) -> None:
        train, test = self.metrics, evaluate(self.model, self.test_loader)
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
                f"with learning rate {rates}: the weights have diverged; try a smaller learning rate"
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


# --- checkpoints --------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, trainer: Trainer, **extra: Any) -> None:
    """Write everything that a continuation needs to one safetensors file.

    Its tensors are the model's (``model.<name>``) and the optimiser's (``optimizer.<index>.<name>``). All else is JSON
    in the metadata: epoch, step, metrics so far, history, the random state, the schedule, and what is in `extra`.
    An existing file is replaced only by a complete new one.

    Parameters
    ----------
    path : str or Path
    trainer : Trainer
        Between two steps.
    **extra
        Anything JSON can hold, returned by `read_checkpoint`: such as the settings of the run.
    """
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in trainer.model.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    numbers: dict[int, dict[str, Any]] = {}
    for index, slots in optimizer["state"].items():
        for name, value in slots.items():
            if isinstance(value, np.ndarray):
                arrays[f"optimizer.{index}.{name}"] = value
            else:
                numbers.setdefault(index, {})[name] = value
    info = {
        "made_with": _made_with(trainer),
        "optimizer_groups": optimizer["param_groups"],
        "optimizer_numbers": numbers,
        "schedule_state": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "random": random.get_state(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "seconds": trainer.seconds,
        "metrics": vars(trainer.metrics),
        "history": trainer.history,
        "extra": extra,
    }
    metadata = {"format": CHECKPOINT_FORMAT, "version": str(CHECKPOINT_VERSION), "info": json.dumps(info)}
    write_atomically(path, _safetensors(arrays, metadata))


@dataclass(frozen=True)
class Checkpoint:
    """What `read_checkpoint` found: ``extra`` as it was saved, and the rest for `restore`."""

    path: Path
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]

    @property
    def extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = self.info["extra"]
        return extra

    def restore(self, trainer: Trainer) -> None:
        """Bring `trainer`, built like the saved one, to where that one was; the random state too.

        Raises
        ------
        CheckpointError
            If the model, the optimiser, the schedule or the data are not those of the checkpoint, or a part of it is
            missing or damaged. Nothing is changed then.
        """
        info = self.info
        with _checkpoint_errors(self.path):
            for what, got in _made_with(trainer).items():
                if info["made_with"][what] != got:
                    raise ValueError(f"made with {what} {info['made_with'][what]}, not with {got}")
            epoch, step, seconds = int(info["epoch"]), int(info["step"]), float(info["seconds"])
            metrics, history = Metrics(**info["metrics"]), [dict(row) for row in info["history"]]
            if len(history) != epoch or not 0 <= step <= len(trainer.train_loader):
                raise ValueError(f"epoch {epoch} and step {step} do not fit the history and the data")
            slots: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in info["optimizer_numbers"].items()}
            for key, array in self.arrays.items():
                if key.startswith("optimizer."):
                    _, index, name = key.split(".", 2)
                    slots.setdefault(int(index), {})[name] = array
            weights = {key.removeprefix("model."): a for key, a in self.arrays.items() if key.startswith("model.")}
            with _all_or_nothing(trainer):
                trainer.model.load_state_dict(weights)
                trainer.optimizer.load_state_dict({"state": slots, "param_groups": info["optimizer_groups"]})
                if trainer.schedule is not None:
                    trainer.schedule.load_state_dict(info["schedule_state"])
                random.set_state(info["random"])
        trainer.epoch, trainer.step, trainer.seconds = epoch, step, seconds
        trainer.metrics, trainer.history = metrics, history


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, or anything else than a checkpoint of this version.
    """
    path = Path(path)
    with _checkpoint_errors(path), safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != CHECKPOINT_FORMAT:
            raise ValueError("a safetensors file, but not a ministn checkpoint (weights alone, perhaps)")
        if metadata.get("version") != str(CHECKPOINT_VERSION):
            raise ValueError(f"expected checkpoint version {CHECKPOINT_VERSION}, got {metadata.get('version')}")
        info = json.loads(metadata["info"])
        if not isinstance(info, dict) or not isinstance(info["extra"], dict):
            raise TypeError("a damaged checkpoint, whose metadata are no JSON objects")
        return Checkpoint(path, _arrays(file), info)


def save_weights(path: str | Path, model: Any) -> None:
    """Write the model's weights alone, under their own names, which are also those of its PyTorch twin.

    Parameters
    ----------
    path : str or Path
        Replaced, if it exists, only by a complete new file.
    model : Module
    """
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_atomically(path, _safetensors(weights, {"model": type(model).__name__}))


def load_weights(path: str | Path, model: Any) -> None:
    """Read what `save_weights`, or ``safetensors.torch.save_file(model.state_dict(), path)``, wrote, into `model`.

    Parameters
    ----------
    path : str or Path
    model : Module
        With weights of the names, shapes and dtypes in the file.

    Raises
    ------
    CheckpointError
        If the file is missing, no safetensors file, or does not fit the model, which is left as it was then.
    """
    with _checkpoint_errors(path), safetensors.safe_open(path, framework="numpy") as file:
        model.load_state_dict(_arrays(file))


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that, whatever happens, `path` holds either what it held before or all of `content`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_csv(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the same keys as comma-separated values with a header, atomically."""
    lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _safetensors(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    # safetensors writes the memory as it is, so it must be in row-major order
    return safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()}, metadata)


def _arrays(file: Any) -> dict[str, np.ndarray]:
    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no mapping)


@contextlib.contextmanager
def _checkpoint_errors(path: str | Path) -> Iterator[None]:
    """Whatever a file that is missing, damaged or of something else leads to, as one CheckpointError naming it."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file, or none that may be read") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: truncated or no safetensors file ({error})") from None
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing") from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:  # also for a dtype that NumPy lacks
        raise CheckpointError(f"{path}: {error}") from error


@contextlib.contextmanager
def _all_or_nothing(trainer: Trainer) -> Iterator[None]:
    """On an error within the block, what the block may have loaded is put back as it was."""
    weights = {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}
    optimizer, state = trainer.optimizer.state_dict(), random.get_state()
    schedule = None if trainer.schedule is None else trainer.schedule.state_dict()
    try:
        yield
    except BaseException:
        trainer.model.load_state_dict(weights)
        if trainer.schedule is not None:
            trainer.schedule.load_state_dict(schedule)
        trainer.optimizer.load_state_dict(optimizer)  # after the schedule, which sets the learning rates
        random.set_state(state)
        raise


def _made_with(trainer: Trainer) -> dict[str, Any]:
    """What must be the same in the run that made a checkpoint and in the one that goes on from it."""
    schedule, schedules = trainer.schedule, []
    while schedule is not None:
        schedules.append(type(schedule).__name__)
        schedule = getattr(schedule, "after", None)
    loader = trainer.train_loader
    return {
        "model": type(trainer.model).__name__,
        "optimizer": type(trainer.optimizer).__name__,
        "schedule": " and ".join(schedules) or "none",
        # which images come in which batch, and how they look
        "number of images": len(loader.images),
        "labels (hash)": hashlib.sha256(loader.labels.tobytes()).hexdigest()[:12],
        "batch_size": loader.batch_size,
        "shuffle": bool(loader.shuffle),
        "seed": loader.seed,
        "drop_last": bool(loader.drop_last),
        "pixel mean": loader.mean,
        "pixel standard deviation": loader.std,
        "augment": loader.augment is not None,
    }


# --- where it ran -------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Versions and processor, to be kept beside results.

    Returns
    -------
    dict
        With the keys ``"python"``, ``"ministn"``, ``"numpy"``, ``"numba"`` and ``"processor"``.
    """
    import numba

    import ministn

    return {
        "python": platform.python_version(),
        "ministn": ministn.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": _processor(),
    }


def _processor() -> str:
    """The processor's name, which Python's own function does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
