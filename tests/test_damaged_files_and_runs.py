"""Trainings that are disturbed and files that are damaged: samples of what examples/reliability does in bulk."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from damage import damage, damage_header
from hypothesis import example, given
from hypothesis import strategies as st

from ministn import nn, records
from ministn.data import DataError, mnist

FOLDER = Path(__file__).parents[1] / "examples" / "reliability"


def figures(script: str, path: Path, *options: str) -> dict:
    """What the script writes to the file."""
    command = [sys.executable, str(FOLDER / script), *options, "--out", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(path.read_text())


# --- trainings that are disturbed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "program_kills"), [(5, 0), pytest.param(100, 3, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_disturbed_trainings_end_with_the_same_bits(tmp_path, kills, program_kills):
    """The script stops with an error at the first bit that differs."""
    results = figures("kills.py", tmp_path / "f", "--kills", str(kills), "--program-kills", str(program_kills))
    ways = {"kill": kills, "torn": kills, "full": kills} | ({"program": program_kills} if program_kills else {})
    for name, wanted in ways.items():
        assert results[name]["disturbances"] >= wanted
        assert results[name]["bit-identical in the end"] == results[name]["trainings"] >= 1
    assert results["torn"]["of these with a file half written"] == results["torn"]["disturbances"]


def test_a_write_in_place_would_be_found(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import kills\n"
        "def in_place(path, content):\n"
        "    with kills.records.open(path, 'wb') as file:\n"
        "        file.write(content)\n"
        "kills.records.open = open\n"
        "kills.records.write_atomically = in_place\n"
        f"kills.main(['--kills', '10', '--program-kills', '0', '--out', {str(tmp_path / 'f')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "CheckpointError" in result.stderr
    assert "checkpoint.safetensors: truncated or no safetensors file" in result.stderr


def test_a_lock_ends_with_its_process(tmp_path):
    code = f"from ministn import records\nwith records.locked({str(tmp_path)!r}):\n    print(flush=True)\n    input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        process.stdout.readline()
        with pytest.raises(records.BusyError, match="another program is at"), records.locked(tmp_path):
            pass
        process.kill()
    with records.locked(tmp_path):
        pass


def test_a_folder_that_may_not_be_written_to(tmp_path):
    """As somebody who is not root, whom nothing binds."""
    (tmp_path / "file").write_bytes(b"old")
    code = (
        "import os; from ministn import records\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "for write in (lambda: records.write_atomically('file', b'new'), records.locked('.').__enter__):\n"
        "    try: write()\n"
        "    except OSError as error: print(error)"
    )
    tmp_path.chmod(0o555)
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    tmp_path.chmod(0o755)
    first, second = result.stdout.splitlines()
    assert first.startswith("[Errno 13] Permission denied: '.file.")
    assert second == "[Errno 13] Permission denied: 'lock'"
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


# Run in a mount namespace of its own, with a file system that has little room, then none for writing, then enough.
DISK = """
import pathlib, subprocess, sys
program, disk, whole = sys.argv[1:]
run = disk + "/run"

def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", disk], check=True)

def train(*options):
    result = subprocess.run([sys.executable, program, *options], capture_output=True, text=True)
    print(result.returncode, result.stderr.splitlines()[-1:])

new = ["--quick", "--data", "strokes", "--epochs", "2", "--threads", "1", "--out"]
train(*new, whole)
mount("-o", "size=64k")
train(*new, run)
size = sum(file.stat().st_size for file in pathlib.Path(whole).glob("checkpoint.*"))
mount("-o", f"remount,size={size * 3 // 2}")  # one checkpoint, not two: the second is written beside the first
train(*new, run)
mount("-o", "remount,ro")
train("--resume", run)
mount("-o", "remount,rw,size=100m")
train("--resume", run)
import kills
states = [kills.state_of(kills.Path(folder) / kills.CHECKPOINT) for folder in (run, whole)]
print("same bits:", states[0] == states[1])
"""


@pytest.mark.slow
def test_a_program_on_a_full_and_on_a_read_only_disk(tmp_path):
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*own_mounts, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a mount namespace, which is not allowed here: {error}")
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    disk.mkdir()
    command = [*own_mounts, sys.executable, "-c", DISK, str(FOLDER.parent / "train_mnist.py"), str(disk), str(whole)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    undisturbed, too_small, full, read_only, enough, same = result.stdout.splitlines()
    assert undisturbed == enough == "0 []"
    assert too_small == f"2 ['train_mnist: cannot write to the run folder {disk}/run: No space left on device']"
    assert full.startswith("1 ['train_mnist: [Errno 28] No space left on device; the last checkpoint is kept, go on")
    assert read_only == f"2 ['train_mnist: cannot write to the run folder {disk}/run: Read-only file system']"
    assert same == "same bits: True"


# --- files that are damaged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_of_every_kind(tmp_path, files):
    results = figures("fuzz_files.py", tmp_path / "f", "--files", str(files))
    for about in ("environment", "commit", "clean"):
        del results[about]
    assert len(results) == 10
    for kind, found in results.items():
        assert (found["bug"], found["killed"], found["bugs_and_seeds"]) == (0, 0, {}), kind
        assert found["refused"] > files / 2, kind
        assert found["refused"] + found["same"] + found["other"] == files, kind


def test_a_sound_file_that_is_refused_would_be_found(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import fuzz_files\n"
        "kind = fuzz_files.Kind(b'sound', [lambda content, edits: content[1:]], lambda content: 'refused')\n"
        "fuzz_files.fuzz(kind, 10, fuzz_files.Path())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "a sound file is refused\n")


edits = st.lists(st.tuples(*[st.integers(0, 2**32)] * 3), max_size=5)
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + bytes(range(24))


@given(edits, st.booleans())
@example([], True)
@example([], False)
@example([(0, 7, 1), (1, 16, 23), (0, 10, 0)], False)  # the sound file of no images of 259 x 4 pixels
def test_an_idx_file_is_read_as_it_is_or_refused(edits, zipped):
    content = damage(gzip.compress(IMAGES) if zipped else IMAGES, edits)
    try:
        got = mnist.read_idx(io.BytesIO(content), "file", axes=3)
    except DataError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.startswith("file: ")
        assert edits
        return
    assert got.raw == (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    assert got.array.tobytes() == got.raw[16:]
    assert got.array.shape == tuple(int.from_bytes(got.raw[at : at + 4], "big") for at in (4, 8, 12))


@given(edits, st.sampled_from([damage, damage_header]), st.booleans())
@example([], damage, True)
def test_weights_are_those_that_were_saved_or_refused(tmp_path_factory, edits, way, checksum):
    path, model = tmp_path_factory.getbasetemp() / "weights", nn.Linear(3, 2)
    saved = {name: tensor.numpy() + 1 for name, tensor in model.state_dict().items()}
    ours = records._safetensors(saved, {"model": "Linear"})  # as save_weights does
    path.write_bytes(way(ours if checksum else safetensors.numpy.save(saved), edits))
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    try:
        records.load_weights(path, model)
    except records.CheckpointError as error:
        said, expected = str(error), before
    else:
        said, expected = "", saved
    if said:
        assert said.startswith(f"{path}: ")
        assert edits
    for name, tensor in model.state_dict().items():
        if checksum or expected is before:
            np.testing.assert_array_equal(tensor.numpy(), expected[name])
