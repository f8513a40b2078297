"""What is in the folder of a run, of either example that trains a transformer on digits, finished or not."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ministn.records import CheckpointError, read_checkpoint
from ministn.viz import PARTS, Watch

HISTORY = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
THETA = ("epoch", *(f"{part}_{what}" for part in PARTS for what in ("mean", "std")))


TRAIN_MNIST, TABLE1 = "examples/train_mnist.py", "examples/reproduce_table1.py"  # what makes runs


class ReportError(ValueError):
    """There is nothing to make a page of; the message is one line."""


@dataclass(frozen=True)
class Run:
    """What a run has recorded.

    Parameters
    ----------
    folder : Path
    script : str
        That has made it.
    about : dict
        Settings and circumstances, as the run has written them: anything may be missing but ``recipe``.
    network, data : str
        What was trained on what.
    transformer : bool
        Whether the network has one.
    epochs : int
        That the run was to have, and has if it is finished.
    finished : bool
    history, theta : list of dict
        A row for each epoch, with the keys of `HISTORY`; for each look at theta, with those of `THETA`.
    watch : Watch or None
    lacking : dict
        Why ``history``, ``theta`` or ``watch`` is not there: a sentence.
    """

    folder: Path
    script: str
    about: dict[str, Any]
    network: str
    data: str
    transformer: bool
    epochs: int
    finished: bool
    history: list[dict[str, float]]
    theta: list[dict[str, float]]
    watch: Watch | None
    lacking: dict[str, str] = field(default_factory=dict)


def read(folder: Path) -> Run:
    """All that there is.

    Raises
    ------
    ReportError
        If the folder is not that of a run, or the file that says what the run was is damaged.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "a name that does not exist"
        raise ReportError(f"{folder}: expected the folder of a run, got {got}")
    if (folder / "config.json").exists():
        return _of_train_mnist(folder)
    if (folder / "result.json").exists() or (folder / "settings.json").exists():
        return _of_reproduce_table1(folder)
    names = sorted(path.name for path in folder.iterdir())
    got = f"one with {', '.join(names[:4])}{' ...' * (len(names) > 4)}" if names else "an empty one"
    raise ReportError(
        f"{folder}: expected a folder with config.json, of {TRAIN_MNIST}, or settings.json, of {TABLE1}, got {got}"
    )


def _of_train_mnist(folder: Path) -> Run:
    about = _settings(folder / "config.json")
    lacking: dict[str, str] = {}
    transformer, epochs = about["model"] != "cnn", about["recipe"]["epochs"]
    history = _or_lacking(lacking, "history", lambda: _csv(folder / "metrics.csv", HISTORY))
    theta = _or_lacking(lacking, "theta", lambda: _csv(folder / "theta.csv", THETA)) if transformer else None
    return Run(
        folder,
        TRAIN_MNIST,
        about,
        network=about["model"],
        data=str(about.get("data_name", "digits")),
        transformer=transformer,
        epochs=epochs,
        finished=history is not None and len(history) >= epochs,
        history=history or [],
        theta=theta or [],
        watch=_or_lacking(lacking, "watch", lambda: _watch(folder)) if transformer else None,
        lacking=lacking,
    )


def _of_reproduce_table1(folder: Path) -> Run:
    finished = (folder / "result.json").exists()
    lacking: dict[str, str] = {}
    about = _settings(folder / ("result.json" if finished else "settings.json"))

    def columns() -> list[dict[str, float]]:
        return _rows(_transposed(about.get("history")), HISTORY, "result.json")

    def checkpoint() -> list[dict[str, float]]:
        path = folder / "checkpoint.safetensors"
        if not path.exists():
            raise ReportError(f"The run has left no {path.name} yet, and no result.json.")
        try:
            saved = read_checkpoint(path)
        except CheckpointError as error:
            raise ReportError(str(error).replace(str(path), path.name)) from None
        about["sessions"] = saved.extra.get("sessions")
        return _rows(saved.info.get("history", []), HISTORY, path.name)

    history = _or_lacking(lacking, "history", columns if finished else checkpoint)
    sessions = about.get("sessions")
    if isinstance(sessions, list) and sessions and isinstance(sessions[-1], dict):
        about |= sessions[-1]
        about["device"] = f"gpu, {about['gpu']}" if "gpu" in about else "cpu"
    transform = about.get("transform")
    digits = {"mnist": "MNIST", "strokes": "drawn digits"}.get(str(about.get("digits")), "digits")
    lacking["theta"] = f"{TABLE1} does not record θ in numbers; the pictures above show what it does."
    return Run(
        folder,
        TABLE1,
        about,
        network=f"{about['model']} {transform}" if transform else about["model"],
        data=f"{about.get('dataset', digits)}, distorted by {about.get('data', '?')}",
        transformer=transform is not None,
        epochs=about["recipe"]["epochs"],
        finished=finished,
        history=history or [],
        theta=[],
        watch=_or_lacking(lacking, "watch", lambda: _watch(folder)) if transform else None,
        lacking=lacking,
    )


def _settings(path: Path) -> dict[str, Any]:
    """The object in the file, with a network and a recipe of so many epochs."""
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise ReportError(f"{path}: expected JSON, got something damaged ({error})") from None
    recipe = about.get("recipe") if isinstance(about, dict) else None
    epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
    if not isinstance(epochs, int) or not isinstance(about.get("model"), str):
        raise ReportError(f"{path}: expected the settings of a run, with model and recipe, got {_short(about)}")
    return dict(about)


def _or_lacking(lacking: dict[str, str], name: str, make: Any) -> Any:
    """What `make` returns; None, with a note of the reason, where it cannot."""
    try:
        return make()
    except ReportError as error:
        lacking[name] = str(error)
        return None


def _csv(path: Path, columns: Sequence[str]) -> list[dict[str, float]]:
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ReportError(f"The run has left no {path.name}, which comes with its first complete epoch.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ReportError(f"{path.name} is damaged: {error}.") from None
    return _rows(rows, columns, path.name)


def _rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], name: str) -> list[dict[str, float]]:
    """The rows with numbers in these columns; there must be one at least, and no number may be missing."""
    table = []
    for number, row in enumerate(rows, 1):
        try:
            values = {column: float(row[column]) for column in columns}
        except (KeyError, TypeError, ValueError):
            values = {"": math.nan}
        if not all(map(math.isfinite, values.values())):
            raise ReportError(
                f"{name} is damaged: expected numbers {', '.join(columns)} in row {number}, got {_short(row)}."
            )
        table.append(values)
    if not table:
        raise ReportError(f"{name} has no complete epoch.")
    return table


def _transposed(columns: Any) -> list[dict[str, Any]]:
    """The columns of a result.json as rows."""
    try:
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    except (AttributeError, TypeError, ValueError):
        expected = "history to be lists of numbers, one as long as the other"
        raise ReportError(f"result.json is damaged: expected {expected}, got {_short(columns)}.") from None


def _watch(folder: Path) -> Watch:
    path = folder / "watch.npz"
    try:
        watch = Watch.read(path)
    except FileNotFoundError:
        raise ReportError(f"There is no {path.name} either, of which it could be drawn.") from None
    except (OSError, ValueError) as error:
        message = str(error).replace(f"{path}: ", "")
        raise ReportError(f"{path.name}, of which it could be drawn, is damaged: {message}.") from None
    if not watch.moments["step"]:
        raise ReportError(f"{path.name}, of which it could be drawn, has no moment of the training yet.")
    return watch


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
