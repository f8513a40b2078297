"""Kill trainings at random moments, resume them, and compare every bit with a training that nobody disturbed.

    python examples/reliability/kills.py                # all of it: docs/results/reliability-kills.json
    python examples/reliability/kills.py --kills 20     # less of it

Each training is that of a small network with all that a checkpoint holds: AdamW, a schedule, dropout, a mean of the
weights, shifted images. It saves after every step. It is disturbed again and again until it gets to its end:

kill       SIGKILL after a random time
torn       SIGKILL from within the write of a checkpoint, after a random part of its bytes
full       no room for a checkpoint any more, after a random part of its bytes
program    examples/train_mnist.py itself, SIGKILL after a random time

After each disturbance the checkpoint must be readable and not older than before. In the end all that a checkpoint
holds must be the same to the last bit: weights, optimiser, schedule, mean, random state, history.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # with OpenMP a process that has trained cannot be copied

import ministn
import ministn.functional as F
from ministn import data, nn, optim, records, training

EPOCHS, IMAGES, BATCH = 3, 150, 16  # 30 steps, and as many checkpoints and some
CHECKPOINT = "checkpoint.safetensors"
PROGRAM = Path(__file__).parents[1] / "train_mnist.py"
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "reliability-kills.json"
FULL_DISK = 3  # exit code of a training that could not save


# --- a training that is disturbed ---------------------------------------------------------------------------------


class Dense(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return F.log_softmax(super().forward(x), dim=1)


def make_trainer() -> training.Trainer:
    ministn.manual_seed(0)
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    labels = generator.integers(0, 10, IMAGES)
    model = Dense(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 10))
    train_loader = data.DataLoader(images, labels, BATCH, seed=2, augment=data.random_shift(1))
    test_loader = data.DataLoader(images[:40], labels[:40], 40, shuffle=False)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    schedule = optim.LinearWarmup(optimizer, 5, after=optim.CosineAnnealingLR(optimizer, T_max=25))
    average = optim.ExponentialMovingAverage(model, 0.9)
    return training.Trainer(model, optimizer, train_loader, test_loader, schedule, average=average)


def train(folder: Path, disturb: Callable[[int], None] = lambda save: None) -> None:
    """Train from the last checkpoint, if there is one, to the end; `disturb` is called before each save."""
    trainer, saves = make_trainer(), 0

    def save(trainer: training.Trainer) -> None:
        nonlocal saves
        saves += 1
        disturb(saves)
        records.save_checkpoint(folder / CHECKPOINT, trainer)

    with records.locked(folder):
        if (folder / CHECKPOINT).exists():
            records.read_checkpoint(folder / CHECKPOINT).restore(trainer)
        trainer.fit(EPOCHS, on_step=save, on_epoch=save)


class _Torn:
    """A file that takes a part of what is written to it, and then its process is killed."""

    def __init__(self, path: Path, part: float) -> None:
        self.file, self.part = open(path, "wb"), part  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> _Torn:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: int(self.part * len(content))])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def tear(save_number: int, part: float) -> Callable[[int], None]:
    """Kill this process within the write of that save."""

    def disturb(save: int) -> None:
        if save == save_number:
            vars(records)["open"] = lambda path, mode: _Torn(path, part)  # in place of the built-in one

    return disturb


def fill(save_number: int, part: float, size: int) -> Callable[[int], None]:
    """From that save on no file of this process may be longer than a part of `size`, as if the disk were full."""

    def disturb(save: int) -> None:
        if save == save_number:
            limit = int(part * size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return disturb


def in_a_process(function: Callable[[], None]) -> int:
    """Start a copy of this process that calls the function; returns its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        function()
        code = 0
    except OSError as error:
        code = FULL_DISK if error.errno in (errno.EFBIG, errno.ENOSPC) else 1
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


# --- disturbing and comparing ---------------------------------------------------------------------------------------


def state_of(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds, but for the times, in a form that == compares bit by bit."""
    checkpoint = records.read_checkpoint(path)
    info = {key: value for key, value in checkpoint.info.items() if key not in ("seconds", "extra")}
    info["history"] = [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second")}
        for row in info["history"]
    ]
    arrays = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in checkpoint.arrays.items()}
    return {"info": info, "arrays": arrays}


def place_of(path: Path) -> tuple[int, int]:
    """Epoch and step of a checkpoint that must be sound; (0, 0) if there is none yet."""
    if not path.exists():
        return 0, 0
    info = records.read_checkpoint(path).info
    return info["epoch"], info["step"]


class Campaign:
    """Disturbs trainings until there were as many disturbances as wanted and the last training is at its end."""

    def __init__(self, name: str, folder: Path, wanted: int, generator: np.random.Generator) -> None:
        self.name, self.folder, self.wanted, self.generator = name, folder, wanted, generator
        self.runs = self.disturbed = self.half_written = self.before_first = self.identical = 0

    def work(self, start: Callable[[Path, bool], int], expected: dict[str, Any]) -> dict[str, Any]:
        """`start` begins or resumes a training in a folder, disturbed or not, and returns its exit code when it ends:
        0 if it got to its end."""
        begun = time.perf_counter()
        while self.disturbed < self.wanted:
            run, place, code = self.folder / f"{self.name}-{self.runs}", (0, 0), -1
            path = run / CHECKPOINT
            while code != 0:
                code = start(run, self.disturbed < self.wanted)
                if code not in (0, FULL_DISK, -signal.SIGKILL):
                    raise SystemExit(f"{run}: a training that was disturbed ended with exit code {code}")
                if code != 0:
                    self.disturbed += 1
                    self.half_written += any(run.glob(".*.part"))
                    self.before_first += not path.exists()
                before, place = place, place_of(path)
                if place < before:
                    raise SystemExit(f"{path}: went back from epoch, step {before} to {place}")
            self.runs += 1
            if state_of(path) != expected:
                raise SystemExit(f"{path}: not the bits of a training that was not disturbed")
            if left := [file.name for file in run.glob(".*.part")]:
                raise SystemExit(f"{run}: has {left} left")
            self.identical += 1
        return {
            "disturbances": self.disturbed,
            "of these with a file half written": self.half_written,
            "of these before the first checkpoint": self.before_first,
            "trainings": self.runs,
            "bit-identical in the end": self.identical,
            "seconds": round(time.perf_counter() - begun, 1),
        }


def wait_for(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_later(process: int, seconds: float) -> int:
    """Kill the process after a time, if it has not ended; its exit code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(process, signal.SIGKILL)
    return wait_for(process)


def disturb_trainings(folder: Path, kills: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The first three of the ways above, `kills` times each."""
    generator = np.random.default_rng(seed)
    train(folder / "compiled")  # so that the processes, which are copies of this one, begin to train at once
    begun = time.perf_counter()
    if wait_for(in_a_process(lambda: train(folder / "whole"))):
        raise SystemExit("the training that is not disturbed failed")
    whole, seconds = folder / "whole" / CHECKPOINT, time.perf_counter() - begun
    expected, size = state_of(whole), whole.stat().st_size

    def killed(run: Path, disturbed: bool) -> int:
        process = in_a_process(lambda: train(run))
        return kill_later(process, generator.uniform(0, seconds)) if disturbed else wait_for(process)

    def at_a_save(make: Callable[[int, float], Callable[[int], None]]) -> Callable[[Path, bool], int]:
        def start(run: Path, disturbed: bool) -> int:
            disturb = make(int(generator.integers(1, 12)), generator.random())
            return wait_for(in_a_process(lambda: train(run, disturb) if disturbed else train(run)))

        return start

    ways = {"kill": killed, "torn": at_a_save(tear), "full": at_a_save(lambda save, part: fill(save, part, size))}
    for name, start in ways.items():
        yield name, Campaign(name, folder, kills, generator).work(start, expected)


def kill_program(folder: Path, kills: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fourth way: a program whose run is resumed as its user would do it."""
    generator = np.random.default_rng(seed)
    options = ["--quick", "--data", "strokes", "--epochs", "2", "--threads", "1"]

    def command(run: Path) -> list[str]:
        begun = (run / CHECKPOINT).exists()
        return [sys.executable, str(PROGRAM), *(["--resume", str(run)] if begun else [*options, "--out", str(run)])]

    def start(run: Path, disturbed: bool) -> int:
        process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL)
        try:
            return process.wait(generator.uniform(0, seconds) if disturbed else None)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    for name in ("compiled", "whole"):  # the first takes longer: a kill of the others would mostly come too late
        begun = time.perf_counter()
        if start(folder / f"program-{name}", False):
            raise SystemExit("the program that is not disturbed failed")
        seconds = time.perf_counter() - begun
    expected = state_of(folder / "program-whole" / CHECKPOINT)
    yield "program", Campaign("program", folder, kills, generator).work(start, expected)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of each of the first three kinds (1000)")
    parser.add_argument("--program-kills", type=int, default=20, help="of train_mnist.py (20)")
    parser.add_argument("--seed", type=int, default=0, help="the moments follow from it (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the figures")
    options = parser.parse_args(arguments)
    ministn.set_num_threads(1)
    results: dict[str, Any] = {"environment": records.environment(), **records.code_version()}
    with tempfile.TemporaryDirectory() as name:
        campaigns = disturb_trainings(Path(name), options.kills, options.seed)
        if options.program_kills:
            campaigns = itertools.chain(campaigns, kill_program(Path(name), options.program_kills, options.seed))
        for campaign, figures in campaigns:
            results[campaign] = figures
            print(campaign, figures, flush=True)
            records.write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
