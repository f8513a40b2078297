"""Read damaged files by the thousand: each must be refused with a clear error, or be read as what it was.

    python examples/reliability/fuzz_files.py                        # all: docs/results/reliability-files.json
    python examples/reliability/fuzz_files.py --files 200            # fewer of each kind
    python examples/reliability/fuzz_files.py --guided 60            # 60 s of each kind, guided by coverage (atheris)

A file is a sound one with some edits: bits turned, pieces cut out, repeated or overwritten, the end cut off, values
of its JSON replaced, a checksum made to fit again. It is read in a process that may take 1 GiB more memory than it has
at the beginning, and 60 s, of which a busy machine may take most. Outcomes:

refused    one of the errors that the function documents
same       what was read is what the sound file holds, bit for bit
other      something else was read, which is sound: where a file has no checksum, or one that fits
bug        any other error
killed     the process died, or was killed after 60 s
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import hashlib
import inspect
import io
import json
import json.decoder
import os
import random as edits_random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import kills
import numpy as np
import reproduce_table1
import safetensors
import safetensors.numpy
import train_mnist
from damage import Edit, damage, damage_header, damage_json

import ministn
from ministn import data, records, training, viz
from ministn.data import mnist

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "reliability-files.json"
MEMORY, SECONDS = 2**30, 60.0  # that a file may cost
SOUND_IS_REFUSED = 3  # exit code of a process that reads files

# --- what is read -------------------------------------------------------------------------------------------------


def damage_info(content: bytes, edits: list[Edit]) -> bytes:
    """A checkpoint with other metadata and a checksum that fits: not a damaged file but one that somebody made."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        checkpoint = records.read_checkpoint(file.name)
    info = json.dumps(damage_json(checkpoint.info, edits))
    metadata = {"format": records.CHECKPOINT_FORMAT, "version": str(records.CHECKPOINT_VERSION), "info": info}
    return records._safetensors(checkpoint.arrays, metadata)


@dataclass
class Kind:
    """A kind of file: a sound one, ways of damaging it, and a function that reads one and returns the outcome."""

    sound: bytes
    damages: list[Callable[[bytes, list[Edit]], bytes]]
    read: Callable[[bytes], str]

    def make(self, edits: list[Edit]) -> bytes:
        way = edits[0][0] // 6 if edits else 0
        return self.damages[way % len(self.damages)](self.sound, edits)


def make_kinds(folder: Path) -> dict[str, Kind]:
    """All kinds; what must lie in a file is written into the folder."""
    file = folder / "file"

    def idx(content: bytes, label: str = "images") -> str:
        try:
            got = mnist._check_canonical(io.BytesIO(content), label, "train-images-idx3-ubyte")
        except data.DataError:
            return "refused"
        assert got.raw == images
        assert got.array.tobytes() == images[16:]
        return "same"

    def package(content: bytes) -> str:
        try:
            got = mnist._read_package(io.BytesIO(content), ["train-images-idx3-ubyte"])
        except data.DataError:
            return "refused"
        assert got["train-images-idx3-ubyte"].raw == images
        return "same"

    def checkpoint(content: bytes) -> str:
        file.write_bytes(content)
        trainer = kills.make_trainer()
        before = full_state(trainer)
        try:
            read = records.read_checkpoint(file)
            read.restore(trainer)
        except records.CheckpointError:
            assert full_state(trainer) == before, "refused, but something was changed"
            return "refused"
        if (read.info, contents(read.arrays)) == expected:
            return "same"
        assert checksum(file) != checksum_of_checkpoint, "another checkpoint than was saved"
        return "other"

    def made_up(content: bytes) -> str:
        file.write_bytes(content)
        trainer = kills.make_trainer()
        before = full_state(trainer)
        try:
            records.read_checkpoint(file).restore(trainer)
        except records.CheckpointError:
            assert full_state(trainer) == before, "refused, but something was changed"
            return "refused"
        with contextlib.suppress(training.NonFiniteLossError):
            trainer.fit(trainer.epoch + 1)
            records.save_checkpoint(file, trainer)
        return "other"

    def weights(content: bytes) -> str:
        file.write_bytes(content)
        model = kills.make_trainer().model
        before = contents({name: tensor.numpy() for name, tensor in model.state_dict().items()})
        try:
            records.load_weights(file, model)
        except records.CheckpointError:
            assert contents({name: t.numpy() for name, t in model.state_dict().items()}) == before
            return "refused"
        if contents({name: t.numpy() for name, t in model.state_dict().items()}) == saved_weights:
            return "same"
        assert checksum(file) != checksum_of_weights, "other weights than were saved"
        return "other"

    def run(content: bytes) -> str:
        (folder / "run" / train_mnist.CHECKPOINT).write_bytes(content)
        code = train_mnist.main(["--resume", str(folder / "run")])
        assert code in (0, 1, 2), code
        return "refused" if code == 2 else "other"

    def result(content: bytes) -> str:
        (folder / "results" / "run.json").write_bytes(content)
        code = reproduce_table1.main(["--render", "--results", str(folder / "results"), "--page", str(folder / "page")])
        assert code in (0, 2), code
        return "refused" if code == 2 else "other"

    def table(content: bytes) -> str:
        for path in ("runs/results/modern-FCN-R-0.json", "runs/modern-FCN-R-0/settings.json"):
            (folder / path).write_bytes(content)
        options = ["--model", "FCN", "--data", "R", "--out", str(folder / "runs")]
        try:
            tasks = reproduce_table1.plan(reproduce_table1.parse(options))
        except reproduce_table1.UsageError:
            return "refused"
        reproduce_table1.Program(tasks, reproduce_table1.parse(options)).table()
        return "other"

    def watch(content: bytes) -> str:
        file.write_bytes(content)
        try:
            viz.Watch.read(file)
        except ValueError:
            return "refused"
        return "other"

    for name in ("run", "results", "runs/results", "runs/modern-FCN-R-0"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (12, 9, 7), dtype=np.uint8) // 64 * 64
    images = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape) + pixels.tobytes()
    mnist.SHA256["train-images-idx3-ubyte"] = hashlib.sha256(images).hexdigest()

    trainer = kills.make_trainer()
    trainer.fit(1)
    records.save_checkpoint(file, trainer, settings={"lr": 0.1})
    sound_checkpoint, read = file.read_bytes(), records.read_checkpoint(file)
    expected, checksum_of_checkpoint = (read.info, contents(read.arrays)), checksum(file)
    records.save_weights(file, trainer.model)
    sound_weights, checksum_of_weights = file.read_bytes(), checksum(file)
    saved_weights = contents(safetensors.numpy.load_file(file))

    bytewise: list[Any] = [damage]
    return {
        "idx": Kind(images, bytewise, idx),
        "gzip": Kind(gzip.compress(images), bytewise, idx),
        "npm's tgz": Kind(gzip.compress(tar(images)), [damage, damage_tar], package),
        "checkpoint": Kind(sound_checkpoint, [damage, damage_header], checkpoint),
        "weights": Kind(sound_weights, [damage, damage_header], weights),
        "checkpoint, made up": Kind(sound_checkpoint, [damage_info], made_up),
        "checkpoint of train_mnist": Kind(make_run(folder), [damage, damage_header, damage_info, damage_info], run),
        "result.json": Kind(make_result(), [damage, damage_text], result),
        "settings.json and result.json": Kind(make_result(), [damage, damage_text], table),
        "watch.npz": Kind(make_watch(), bytewise, watch),
    }


def checksum(path: Path) -> str | None:
    """What a file says its SHA-256 is. A guided fuzzer reads the right one off the comparison, and puts it in."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("sha256")


def contents(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def full_state(trainer: training.Trainer) -> Any:
    optimizer = trainer.optimizer.state_dict()
    return (
        contents({name: tensor.numpy() for name, tensor in trainer.model.state_dict().items()}),
        repr(optimizer),
        trainer.schedule.state_dict(),
        repr(trainer.average.state_dict()),
        ministn.random.get_state(),
        (trainer.epoch, trainer.step, trainer.seconds, trainer.metrics.as_dict(), trainer.history),
    )


def tar(images: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("package/data/train-images-idx3-ubyte")
        member.size = len(images)
        archive.addfile(member, io.BytesIO(images))
    return content.getvalue()


def damage_tar(content: bytes, edits: list[Edit]) -> bytes:
    return gzip.compress(damage(gzip.decompress(content), [(a, b % 600, c) for a, b, c in edits]))


def damage_text(content: bytes, edits: list[Edit]) -> bytes:
    return json.dumps(damage_json(json.loads(content), edits)).encode()


def make_run(folder: Path) -> bytes:
    """The checkpoint of a run of train_mnist, which in this process trains on a few drawn digits and draws nothing."""
    digits = data.strokes.load(train_size=64, test_size=20, seed=0)
    vars(data)["load"] = lambda name, data_dir=None: digits
    train_mnist.Run.report = lambda run: None  # type: ignore[method-assign]
    fit = training.Trainer.fit
    # a made-up checkpoint may ask for 10^30 epochs, and a reader who trains them does what it says
    training.Trainer.fit = lambda self, epochs, *calls: fit(self, min(epochs, self.epoch + 2), *calls)  # type: ignore[method-assign]
    train_mnist.main(["--model", "cnn", "--epochs", "1", "--threads", "1", "--out", str(folder / "run")])
    return (folder / "run" / train_mnist.CHECKPOINT).read_bytes()


def make_result() -> bytes:
    recipe = reproduce_table1.recipe_for("modern", "FCN", "R", {})
    run = reproduce_table1.Run("FCN", None, "R", 0, "modern", recipe)
    figures = {"test_error_percent": 1.2, "test_images": 10_000, "epochs": 60, "parameters": 399_000}
    times = {"wall_seconds": 60.0, "cpu_seconds": 90.0, "sessions": [{"threads": 1, "environment": {"numpy": "2.4"}}]}
    return json.dumps({**run.settings(), **figures, **times}).encode()


def make_watch() -> bytes:
    content = io.BytesIO()
    watch = viz.Watch(np.zeros((2, 5, 28, 28), np.uint8), np.arange(2), 10)
    with tempfile.TemporaryDirectory() as name:
        watch.save(Path(name) / "watch.npz")
        content.write((Path(name) / "watch.npz").read_bytes())
    return content.getvalue()


# --- many files -----------------------------------------------------------------------------------------------------


def draw_edits(seed: int) -> list[Edit]:
    generator = edits_random.Random(seed)
    return [tuple(generator.randrange(2**32) for _ in range(3)) for _ in range(generator.randint(1, 4))]  # type: ignore[misc]


def read_many(kind: Kind, seeds: range, log: int) -> None:
    """What the process does: a line in the log for each file."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for seed in seeds:
        begun = time.perf_counter()
        try:
            outcome = kind.read(kind.make(draw_edits(seed)))
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"bug {type(error).__name__}: {str(error)[:80]!r} at {Path(where.filename).name}:{where.lineno}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        os.write(log, f"{seed}\t{time.perf_counter() - begun:.3f}\t{peak}\t{outcome}\n".encode())


def fuzz(kind: Kind, files: int, folder: Path) -> dict[str, Any]:
    """Read so many damaged files in processes of their own; what came of it."""
    outcomes: collections.Counter[str] = collections.Counter()
    bugs: dict[str, int] = {}
    longest, largest, done = 0.0, 0, 0
    path = folder / "log"
    while done < files:
        path.write_bytes(b"")
        log = os.open(path, os.O_WRONLY | os.O_APPEND)
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            outcome = "refused"
            with contextlib.suppress(BaseException):
                outcome = kind.read(kind.sound)
                if outcome != "refused":
                    read_many(kind, range(done, files), log)
            os._exit(SOUND_IS_REFUSED if outcome == "refused" else 0)
        os.close(log)
        size, since = 0, time.monotonic()
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
            if path.stat().st_size != size:
                size, since = path.stat().st_size, time.monotonic()
            elif time.monotonic() - since > SECONDS:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        if os.waitstatus_to_exitcode(ended[1]) == SOUND_IS_REFUSED:  # no wonder if damaged ones are, too
            raise SystemExit("a sound file is refused")
        for line in path.read_text().splitlines():
            seed, seconds, peak, outcome = line.split("\t", 3)
            done, longest, largest = int(seed) + 1, max(longest, float(seconds)), max(largest, int(peak))
            outcomes[outcome.partition(" ")[0]] += 1
            if outcome.startswith("bug"):
                bugs.setdefault(outcome, int(seed))
        if done < files:
            outcomes["killed"] += 1
            bugs.setdefault("killed", done)
            done += 1
    figures = {"files": files, **{name: outcomes[name] for name in ("refused", "same", "other", "bug", "killed")}}
    return figures | {"longest_ms": round(1000 * longest), "peak_MiB": largest, "bugs_and_seeds": bugs}


def guided(name: str, seconds: int) -> None:
    """Damage files of a kind so that more and more lines of the code are reached. Ends this process."""
    import atheris

    for module in (gzip, tarfile, zipfile, json.decoder, np.lib.format, mnist, records, reproduce_table1, train_mnist):
        for value in list(vars(module).values()):
            for function in (value, *(vars(value).values() if inspect.isclass(value) else ())):
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as folder:
        kind = make_kinds(Path(folder))[name]
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "sound").write_bytes(kind.sound)
        for seed in range(50):
            (corpus / str(seed)).write_bytes(kind.make(draw_edits(seed)))
        limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS:.0f}", "-rss_limit_mb=2048", "-print_final_stats=1"]
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (what the programs say; the fuzzer writes past it)
        atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda content: kind.read(content) and None)
        atheris.Fuzz()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="of each kind (5000)")
    parser.add_argument("--kind", action="append", help="only this one; may be repeated")
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="of each kind, with atheris, beside the others")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    ministn.set_num_threads(1)
    if options.one:
        guided(options.one, options.guided)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.kind and options.out.exists() else {}
    results |= {"environment": records.environment(), **records.code_version()}  # of the last run
    with tempfile.TemporaryDirectory() as name:
        for kind_name, kind in make_kinds(Path(name)).items():
            if options.kind and kind_name not in options.kind:
                continue
            results[kind_name] = fuzz(kind, options.files, Path(name))
            if options.guided:
                results[kind_name]["guided"] = run_guided(kind_name, options.guided)
            print(kind_name, results[kind_name], flush=True)
            records.write_atomically(options.out, (json.dumps(results, indent=1) + "\n").encode())


def run_guided(kind: str, seconds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", kind, "--guided", str(seconds)]
    process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    files = re.findall(r"number_of_executed_units: (\d+)", process.stderr)
    covered = re.findall(r"cov: (\d+)", process.stderr)
    if not files or not covered:
        raise SystemExit(f"atheris: {process.stderr[-2000:]}")
    return {
        "files": int(files[-1]),
        "branches": [int(covered[0]), int(covered[-1])],
        "found": process.returncode != 0,
        "said": process.stderr[-1500:] if process.returncode else "",
    }


if __name__ == "__main__":
    main()
