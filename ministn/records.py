"""What a run writes to disk: checkpoints from which it continues bit for bit, weights, tables, and where it ran.

>>> save_checkpoint("checkpoint.safetensors", trainer)  # doctest: +SKIP
>>> read_checkpoint("checkpoint.safetensors").restore(trainer)  # doctest: +SKIP

Every file is complete or absent: it is written under another name first and then renamed. Nothing is pickled.
Checkpoints and weights carry a SHA-256 of their content, so that what a disk has changed is not taken for numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from ministn import random
from ministn.training import Metrics, NonFiniteLossError, Trainer

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes from the same folder
    fcntl = None  # type: ignore[assignment]

# What a checkpoint knows of each complete epoch, at least: the keys of `Trainer.history`, to which a program may add.
HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "images_per_second", "seconds")
CHECKPOINT_FORMAT = "ministn checkpoint"
CHECKPOINT_VERSION = 1


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or does not fit what it is loaded into."""


class BusyError(Exception):
    """Another process has the folder."""


# --- checkpoints --------------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, trainer: Trainer, **extra: Any) -> None:
    """Write everything that a continuation needs to one safetensors file.

    Its tensors are the model's (``model.<name>``), the optimiser's (``optimizer.<index>.<name>``) and, if the trainer
    keeps an average of the weights, that (``average.<name>``). All else is JSON in the metadata: epoch, step, metrics
    so far, history, the random state, the schedule, and what is in `extra`.
    Nothing in it says on which device the training was: it goes on on either.
    An existing file is replaced only by a complete new one.

    Parameters
    ----------
    path : str or Path
    trainer : Trainer
        Between two steps.
    **extra
        Anything JSON can hold, returned by `read_checkpoint`: such as the settings of the run.

    Raises
    ------
    NonFiniteLossError
        If a loss on the GPU turns out to be NaN or infinite, or a number of the model, the optimiser or the average is:
        a step may have spoilt it from a finite loss. Nothing is written then, and the file is what it was.
    """
    metrics = trainer.read_metrics()  # before the weights: what comes of a loss that is not finite is not worth saving
    arrays = {f"model.{name}": tensor.numpy() for name, tensor in trainer.model.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    numbers: dict[int, dict[str, Any]] = {}
    for index, slots in optimizer["state"].items():
        for name, value in slots.items():
            if isinstance(value, np.ndarray):
                arrays[f"optimizer.{index}.{name}"] = value
            else:
                numbers.setdefault(index, {})[name] = value
    average = None if trainer.average is None else trainer.average.state_dict()
    if average is not None:
        arrays |= {f"average.{name}": array for name, array in average["weights"].items()}
    spoilt = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if spoilt:
        raise NonFiniteLossError(
            f"{path}: not written, since {spoilt[0]} is not finite; what was there before still is"
        )
    info = {
        "made_with": _made_with(trainer),
        "optimizer_groups": optimizer["param_groups"],
        "optimizer_numbers": numbers,
        "schedule_state": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "average_updates": None if average is None else average["updates"],
        "random": random.get_state(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "seconds": trainer.seconds,
        "metrics": metrics.as_dict(),
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

    def load_weights(self, model: Any) -> None:
        """The weights alone, into `model`, a Module; CheckpointError if they do not fit it, which is left as it was."""
        with _checkpoint_errors(self.path):
            model.load_state_dict(self._part("model."))

    def _part(self, prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): array for key, array in self.arrays.items() if key.startswith(prefix)}

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
            averages = self._part("average.")
            if bool(averages) != (trainer.average is not None):
                raise ValueError(f"made {'with' if averages else 'without'} an average of the weights")
            _check_made_with(info["made_with"], trainer)
            epoch, step, seconds = int(info["epoch"]), int(info["step"]), float(info["seconds"])
            metrics, history = Metrics(**info["metrics"]), [dict(row) for row in info["history"]]
            complete = [row.get("epoch") for row in history] == list(range(1, len(history) + 1))
            if not complete or len(history) != epoch or not 0 <= step <= len(trainer.train_loader):
                raise ValueError(f"epoch {epoch} and step {step} do not fit the history and the data")
            for row in history:
                if not row.keys() >= set(HISTORY):
                    raise ValueError(f"expected {', '.join(HISTORY)} of each epoch, got {', '.join(row)}")
            for row in (info["metrics"], *history):
                if bad := [name for name, value in row.items() if type(value) not in (int, float)]:
                    raise TypeError(f"expected {bad[0]} to be a number, got {row[bad[0]]!r:.40}")
            slots: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in info["optimizer_numbers"].items()}
            for key, array in self.arrays.items():
                if key.startswith("optimizer."):
                    _, index, name = key.split(".", 2)
                    slots.setdefault(int(index), {})[name] = array
            with _all_or_nothing(trainer):
                trainer.model.load_state_dict(self._part("model."))
                trainer.optimizer.load_state_dict({"state": slots, "param_groups": info["optimizer_groups"]})
                if trainer.schedule is not None:
                    trainer.schedule.load_state_dict(info["schedule_state"])
                if trainer.average is not None:
                    trainer.average.load_state_dict({"weights": averages, "updates": info["average_updates"]})
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
        arrays = _arrays(file)
        info = json.loads(metadata["info"])
        if not isinstance(info, dict) or not isinstance(info["extra"], dict):
            raise TypeError("a damaged checkpoint, whose metadata are no JSON objects")
        return Checkpoint(path, arrays, info)


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
    # of this call alone: threads have one number of a process, and so may processes on two machines with one disk
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
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


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Within the block no other process has the folder; the lock ends with the process, however that ends.

    The folder is made where there is none; a file ``lock`` in it stays. What `write_atomically` had half written there
    when its process was killed is removed.

    Raises
    ------
    BusyError
        If another process has the folder.
    OSError
        If the folder cannot be made or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another program is at {folder}") from None
        for path in folder.glob(".*.part"):
            if re.fullmatch(r"\..+\.\d+(\.[0-9a-f]{8})?\.part", path.name):
                path.unlink(missing_ok=True)
        yield


def _safetensors(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    # safetensors writes the memory as it is, so it must be in row-major order
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(arrays, metadata | {"sha256": _sha256(arrays, metadata)})


def _arrays(file: Any) -> dict[str, np.ndarray]:
    """All arrays of an open file, which are those that were written if the file says so; other libraries' does not."""
    arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
    metadata = file.metadata() or {}
    expected = metadata.pop("sha256", None)
    if expected is None and metadata.keys() & {"model", "info"}:  # what this file writes
        raise ValueError("damaged: the SHA-256 of its content is missing")
    if expected is not None and (got := _sha256(arrays, metadata)) != expected:
        raise ValueError(f"damaged: expected content of SHA-256 {expected}, got {got}")
    return arrays


def _sha256(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Of all that is in a file, in whatever order."""
    header = sorted((name, array.dtype.str, array.shape) for name, array in arrays.items())
    digest = hashlib.sha256(json.dumps([header, sorted(metadata.items())]).encode())
    for _, array in sorted(arrays.items()):
        digest.update(array.tobytes())
    return digest.hexdigest()


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
    # TypeError also for a dtype that NumPy lacks, RecursionError for JSON that is nested too deep
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


@contextlib.contextmanager
def _all_or_nothing(trainer: Trainer) -> Iterator[None]:
    """On an error within the block, what the block may have loaded is put back as it was."""
    weights = {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}
    optimizer, state = trainer.optimizer.state_dict(), random.get_state()
    schedule = None if trainer.schedule is None else trainer.schedule.state_dict()
    average = None if trainer.average is None else trainer.average.state_dict()
    try:
        yield
    except BaseException:
        trainer.model.load_state_dict(weights)
        if trainer.schedule is not None:
            trainer.schedule.load_state_dict(schedule)
        if trainer.average is not None:
            trainer.average.load_state_dict(average)
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
        "training set (hash)": getattr(loader, "fingerprint", None),
        "test set (hash)": getattr(trainer.test_loader, "fingerprint", None),
        "batch_size": loader.batch_size,
        "shuffle": bool(loader.shuffle),
        "seed": loader.seed,
        "drop_last": bool(loader.drop_last),
        "pixel mean": loader.mean,
        "pixel standard deviation": loader.std,
        "augmentation": _described(loader.augment),
        "network": repr(trainer.model),
        "loss": _described(trainer.loss),
        "decay of the average": None if trainer.average is None else trainer.average.decay,
    }


# What checkpoints did not hold at first: of an older one it is not known.
_ADDED = ("training set (hash)", "test set (hash)", "augmentation", "network", "loss", "decay of the average")


def _check_made_with(made_with: dict[str, Any], trainer: Trainer) -> None:
    """Raise ValueError on the first thing that is not as in the run which made the checkpoint."""
    for what, got in _made_with(trainer).items():
        had = made_with.get(what, got) if what in _ADDED else made_with[what]
        if had != got:
            # of a network, which has a line for each layer, the first layer that differs
            lines = itertools.zip_longest(str(had).splitlines(), str(got).splitlines(), fillvalue="nothing")
            had, got = next(((a.strip(), b.strip()) for a, b in lines if a != b), (had, got))
            raise ValueError(f"made with {what} {had}, not with {got}")


def _described(function: Any) -> str | None:
    """A function, or an object that acts as one, by what is the same in every process."""
    if function is None:
        return None
    if isinstance(function, functools.partial):
        return f"{_described(function.func)} with {function.args} {function.keywords}"
    if dataclasses.is_dataclass(function):
        return repr(function)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


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


def code_version() -> dict[str, Any]:
    """The commit that this code is of, and whether the code is as committed.

    Returns
    -------
    dict
        ``"commit"``, 40 hexadecimal digits, and ``"clean"``, bool; both None where the package is in no repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an environment may lie in someone else's repository
        changed = git("status", "--porcelain", "--", ":/ministn", ":/examples", ":/pyproject.toml")
        return {"commit": git("rev-parse", "HEAD"), "clean": not changed}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


def _processor() -> str:
    """The processor's name, which Python's own function does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
