"""Time the same work in ministn and in PyTorch, side by side.

A `Case` names, for each side, a function that prepares the work and returns it as a function without arguments. `race`
takes the sides' times in turn. What makes the comparison fair:

* Each side has a process of its own. Within one process the threads of PyTorch and those of Numba would fight for the
  processors: OpenMP threads do not sleep at the end of a parallel loop but spin, for about 10 ms with GNU's library,
  so that the next loop starts quickly.
* The sides take turns of some hundredths of a second, A B A B, so that a processor that gets slower, or a neighbour
  that wakes up, meets both. A turn begins with untimed calls and ends when the side's threads have gone to sleep.
* What is quoted is the median over the turns, and of the quotient of two sides the median of the quotients of turns
  that follow each other; with quartiles.
* Before the first turn, the sides' results are compared. It must be the same work.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MINISTN, PYTORCH = "ministn", "PyTorch"
COLOURS = {MINISTN: "#0072B2", PYTORCH: "#D55E00"}

Work = Callable[[], Any]  # does it once; may return arrays, which are then compared


@dataclass(frozen=True)
class Case:
    """The same work on several sides.

    Parameters
    ----------
    name : str
    sides : dict of callable
        For each side's name a picklable function that prepares the work, in that side's process, and returns it.
    flop : float
        Additions and multiplications in one call, if known.
    facts : dict
        Whatever the results shall repeat: sizes, targets.
    """

    name: str
    sides: dict[str, Callable[[], Work]]
    flop: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


# --- statistics ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The median of some measurements and their quartiles: half of them lie between `low` and `high`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        if len(values) == 1:
            return cls(*values * 3)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Result:
    """What a race found: for each side its seconds per call, turn by turn."""

    case: Case
    threads: int
    seconds: dict[str, list[float]]

    def time(self, side: str) -> Spread:
        """Seconds per call."""
        return Spread.of(self.seconds[side])

    def ratio(self, side: str = MINISTN, peer: str = PYTORCH) -> Spread:
        """How many times faster than `peer` a side is: the quotients of turns that follow each other."""
        return Spread.of(b / a for a, b in zip(self.seconds[side], self.seconds[peer], strict=True))

    def gflops(self, side: str) -> float:
        """Billions of additions and multiplications in a second."""
        return self.case.flop / self.time(side).median / 1e9

    def as_json(self) -> dict[str, Any]:
        times = {
            side: {"median_ms": 1e3 * s.median, "quartiles_ms": [1e3 * s.low, 1e3 * s.high], "turns": len(turns)}
            for side, turns in self.seconds.items()
            for s in (Spread.of(turns),)
        }
        row = {"case": self.case.name, "threads": self.threads, **self.case.facts, "times": times}
        if self.case.flop:
            row |= {"flop": self.case.flop, "gflops": {side: self.gflops(side) for side in self.seconds}}
        if PYTORCH in self.seconds:
            ratios = {side: self.ratio(side) for side in self.seconds if side != PYTORCH}
            row["times_faster_than_pytorch"] = {
                side: {"median": ratio.median, "quartiles": [ratio.low, ratio.high]} for side, ratio in ratios.items()
            }
        return row


# --- a side's process ---------------------------------------------------------------------------------------------


class WorkerError(RuntimeError):
    """Something went wrong in a side's process; the message has that process's own traceback."""


class Worker:
    """A fresh Python process, with its number of threads, that calls functions on request.

    Parameters
    ----------
    threads : int
        Of OpenMP, Numba and BLAS, told by environment variables before anything is imported.
    """

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        with _environment_variables({name: str(threads) for name in names}):
            self._process.start()
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, computed over there."""
        try:
            self._connection.send((function, arguments))
            succeeded, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise WorkerError(f"the process ended with exit code {self._process.exitcode}") from None
        if not succeeded:
            raise WorkerError(answer)
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(timeout=5)
        self._process.kill()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def _environment_variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Any) -> None:
    """The worker's loop: requests are pairs (function, arguments), answers pairs (succeeded, result or traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent closes us
    with contextlib.suppress(EOFError):  # the parent is gone
        while (request := connection.recv()) is not None:
            function, arguments = request
            try:
                answer = (True, function(*arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            connection.send(answer)


# The functions below run in a worker.

_work: Work | None = None


def prepare(make: Callable[[], Work]) -> list[Sketch]:
    """Make the work and do it once, which compiles what is to be compiled; returns a sketch of its result."""
    global _work
    _work = None  # frees the memory of the last one
    _work = make()
    result = _work()
    sketches = [] if result is None else [Sketch.of(array) for array in result]
    wait_until_threads_sleep()
    return sketches


def repeat(calls: int) -> None:
    """Do the work so many times, untimed."""
    assert _work is not None
    for _ in range(calls):
        _work()


def take_turn(seconds: float, calls: int = 5) -> float:
    """Seconds per call, over `seconds` or `calls` calls, whichever takes longer (but hardly more than ten turns)."""
    assert _work is not None
    start = time.perf_counter()
    while time.perf_counter() - start < 0.1 * seconds:  # caches and threads wake up; at least one call
        _work()
    count, start = 0, time.perf_counter()
    while True:
        _work()
        count += 1
        elapsed = time.perf_counter() - start
        if elapsed >= (seconds if count >= calls else 10 * seconds):
            break
    wait_until_threads_sleep()
    return elapsed / count


def wait_until_threads_sleep(longest: float = 0.5) -> None:
    """Sleep until this process uses no processor any more: threads that wait for a parallel loop spin at first."""
    interval, used = 0.01, math.inf
    while used > 0.1 * interval and longest > 0:
        before = time.process_time()
        time.sleep(interval)
        used = time.process_time() - before
        longest -= interval


@dataclass(frozen=True)
class Sketch:
    """As much of an array as tells whether another one is the same: shape, length, and product with a fixed vector."""

    shape: tuple[int, ...]
    norm: float
    product: float

    @classmethod
    def of(cls, array: Any) -> Sketch:
        import numpy as np

        values = np.asarray(array, np.float64).ravel()
        fixed = np.random.default_rng(0).standard_normal(values.size)
        return cls(tuple(array.shape), float(np.linalg.norm(values)), float(values @ fixed))

    def agrees_with(self, other: Sketch, tolerance: float = 3e-3) -> bool:
        """Up to what rounding to float32 does to long sums, and to a sampling point on the edge between two pixels:
        on the other side of it the gradient for theta is another."""
        return self.shape == other.shape and all(
            abs(a - b) <= tolerance * self.norm for a, b in ((self.norm, other.norm), (self.product, other.product))
        )


def number_of_threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held so far, or None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def import_torch() -> Any:
    """PyTorch with this worker's number of threads."""
    import torch

    torch.set_num_threads(number_of_threads())
    return torch


def _versions() -> dict[str, str]:
    from ministn import records

    return records.environment()


def _fma_peak() -> float:
    import peak

    return peak.gflops(number_of_threads())


# --- the race -----------------------------------------------------------------------------------------------------


def race(
    cases: list[Case], threads: Iterable[int], rounds: int, turn: float = 0.03, title: str = "racing"
) -> list[Result]:
    """Time every case with every number of threads.

    Parameters
    ----------
    cases : list of Case
    threads : iterable of int
    rounds : int
        How many turns each side has for each case; a third of that, but at least 3, where a turn is a single long call.
    turn : float
        Seconds.
    title : str
        Of the progress bar.

    Raises
    ------
    ValueError
        If the sides of a case do not compute the same.
    """
    from tqdm import tqdm

    results = []
    for count in threads:
        names = dict.fromkeys(side for case in cases for side in case.sides)
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(count)) for name in names}
            bar = stack.enter_context(tqdm(cases, desc=f"{title}, threads: {count}", disable=None, leave=False))
            for case in bar:
                bar.set_postfix_str(case.name)
                racing = {side: workers[side] for side in case.sides}
                _check_same_work(case, {side: racing[side].ask(prepare, make) for side, make in case.sides.items()})
                seconds: dict[str, list[float]] = {side: [] for side in racing}
                for number in range(rounds):
                    for side, worker in racing.items():
                        seconds[side].append(worker.ask(take_turn, turn))
                    if number + 1 >= max(3, rounds / 3) and max(map(max, seconds.values())) > 10 * turn:
                        break
                results.append(Result(case, count, seconds))
    return results


def _check_same_work(case: Case, sketches: dict[str, list[Sketch]]) -> None:
    (first, expected), *others = sketches.items()
    for side, got in others:
        same = len(got) == len(expected) and all(a.agrees_with(b) for a, b in zip(expected, got, strict=True))
        if not same:
            raise ValueError(f"{case.name}: {side} and {first} do not compute the same: {got} and {expected}")


def environment(threads: Iterable[int], fma: bool = False) -> dict[str, Any]:
    """Versions, processor, load; with `fma` also the processor's peak for each number of threads, in GFLOP/s."""
    found: dict[str, Any] = {"processors": os.cpu_count(), "torch": importlib.metadata.version("torch")}
    if hasattr(os, "getloadavg"):
        found["load_before"] = round(os.getloadavg()[0], 2)
    peaks: dict[str, float] = {}
    for count in threads if fma else [1]:
        with Worker(count) as worker:
            found |= worker.ask(_versions)
            if fma:
                peaks[str(count)] = round(worker.ask(_fma_peak), 1)
    return found | ({"fma_peak_gflops": peaks} if fma else {})


# --- what all the scripts share -----------------------------------------------------------------------------------


def parser(description: str | None) -> Any:
    """The command line that all the scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = sorted({1, min(2, os.cpu_count() or 1)})
    parser.add_argument("--threads", type=int, nargs="+", default=default, help="numbers of threads, one after another")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this text")
    parser.add_argument("--folder", type=Path, default=Path("."), help="for the JSON file and the picture")
    parser.add_argument("--quick", action="store_true", help="few short turns, no large case: does it run?")
    return parser


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def need_torch() -> None:
    if not has_torch():
        sys.exit("this compares with PyTorch, which is not installed: pip install torch")


def run(arguments: Any, cases: list[Case], title: str, turn: float = 0.03) -> list[Result]:
    """`race` as the command line asks for it."""
    chosen = [case for case in cases if arguments.only in case.name]
    if not chosen:
        sys.exit(f"no case has {arguments.only!r} in its name; there are: " + ", ".join(case.name for case in cases))
    arguments.folder.mkdir(parents=True, exist_ok=True)  # now, not when all is measured
    rounds = arguments.rounds
    if arguments.quick:
        rounds, turn, chosen = 2, 0.002, [case for case in chosen if case.flop < 1e9]
    return race(chosen, arguments.threads, rounds, turn, title)


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark that trains, and draws what it has found."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="the figures do not depend on it (1)")
    parser.add_argument("--folder", type=Path, default=Path("."), help="for the JSON file and the picture")
    parser.add_argument("--data-dir", type=Path, help="a folder with the MNIST files")
    parser.add_argument("--plot", action="store_true", help="only draw what the JSON file in the folder says")
    parser.add_argument("--quick", action="store_true", help="few drawn digits, one epoch: does it run?")
    return parser


def describe(setting: dict[str, Any]) -> str:
    """The line above a table."""
    versions = ", ".join(f"{name} {setting[name]}" for name in ("python", "ministn", "numpy", "numba", "torch"))
    lines = [f"{setting['processor']}, {setting['processors']} processors; {versions}"]
    for count, peak in setting.get("fma_peak_gflops", {}).items():
        lines.append(f"FMA peak, threads: {count}: {peak} GFLOP/s")
    if setting.get("load_before", 0) > 0.5:
        lines.append(f"something else was running (load {setting['load_before']}): do not trust these figures")
    return "\n".join(lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def digits(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def milliseconds(spread: Spread) -> str:
    median, low, high = (digits(1e3 * seconds) for seconds in (spread.median, spread.low, spread.high))
    return f"{median} ({low} to {high})"


def times(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def verdict(reached: float, goals: tuple[float, float] | None) -> list[str]:
    """Three cells of a table: at least, aim, and which of them is reached."""
    if goals is None:
        return ["", "", ""]
    least, aim = goals
    word = "the aim" if reached >= aim else "enough" if reached >= least else "NOT YET"
    return [f"{least:g}", f"{aim:g}", word]


def write_json(path: Path, content: dict[str, Any]) -> None:
    from ministn.records import write_atomically

    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    print(path)


def write_picture(path: Path, figure: Any) -> None:
    import io

    from ministn.records import write_atomically

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    print(path)
