"""A cache of decoded images, so that each is decoded once per machine and not once per trial.

An entry is a folder of .npy files and meta.json. It appears by one rename, so it is complete or
does not exist. It holds the fingerprint of the files it was made from (their sizes and modification
times) and the checksum of every array, and is made again when either does not match. Arrays are
memory-mapped, so the processes of a machine share their pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.locks import file_lock

log = logging.getLogger(__name__)

FORMAT = 3  # of an entry, and of how images are decoded; other entries are made again
NAMES = ("train_x", "train_y", "test_x", "test_y")
BLOCK = 1 << 24  # bytes checksummed at a time
LOCK_TIMEOUT_S = 86_400.0  # for another process that decodes the same images

Arrays = dict[str, NDArray[Any]]


def folder() -> Path:
    """Where entries are kept."""
    return environment.cache_folder()


def fingerprint(files: Iterable[tuple[str, int]]) -> str:
    """A hash of (path, label) pairs with the sizes and modification times of the files."""
    digest = hashlib.sha256()
    for path, label in files:
        stat = os.stat(path)
        line = f"{path}\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def cached(
    name: str, root: Path, mark: str, nbytes: int, make: Callable[[Path], dict[str, Any]]
) -> tuple[Arrays, dict[str, Any]]:
    """Arrays (NAMES, read-only, memory-mapped) and facts of the entry for `root`.

    The entry is made if it is missing, out of date or damaged, by one process at a time. mark:
    fingerprint of the files it is made from. nbytes: size of the arrays, in bytes. make: writes
    <name>.npy for all NAMES into a folder and returns the facts for meta.json. Raises ConfigError
    if the entry cannot be written.
    """
    location = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    entry = folder() / f"{name}-{location}"
    with contextlib.suppress(FileNotFoundError, _UnusableError):
        return _load(entry, mark)
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with file_lock(folder() / f".{entry.name}.lock", f"the cache {entry}", LOCK_TIMEOUT_S):
            try:
                return _load(entry, mark)  # another process may have made it meanwhile
            except FileNotFoundError:
                pass
            except _UnusableError as error:
                log.warning("%s: %s; decoding the images again", entry, error)
            _make(entry, mark, nbytes, make)
            return _load(entry, mark)
    except (OSError, _UnusableError) as error:
        raise ConfigError(
            [
                f"the cache of decoded images {entry} cannot be written: {error}; set "
                "$FEDSMU_CACHE to a folder with enough space"
            ]
        ) from error


class _UnusableError(Exception):
    """Why an entry cannot be used."""


def _make(entry: Path, mark: str, nbytes: int, make: Callable[[Path], dict[str, Any]]) -> None:
    """Make the entry, in place of the old one if there is one.

    Raises OSError if the disk does not have enough space.
    """
    free = shutil.disk_usage(folder()).free
    # Writing to a mapped file on a full disk would end the process without a message.
    if free < nbytes:
        raise OSError(f"{nbytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free")
    with tempfile.TemporaryDirectory(prefix=f".{entry.name}.", dir=folder()) as temporary:
        new = Path(temporary) / "entry"
        new.mkdir()
        facts = make(new)
        checksums = {n: _checksum(new / f"{n}.npy") for n in NAMES}
        meta = {"format": FORMAT, "mark": mark, "checksums": checksums, "facts": facts}
        (new / "meta.json").write_text(json.dumps(meta))
        if entry.exists():
            entry.rename(Path(temporary) / "old")
        new.rename(entry)


def _load(entry: Path, mark: str) -> tuple[Arrays, dict[str, Any]]:
    """Read the entry.

    Raises FileNotFoundError if there is none, and _UnusableError if it is out of date or damaged.
    """
    if not entry.is_dir():
        raise FileNotFoundError(entry)
    try:
        meta = json.loads((entry / "meta.json").read_text())
        if meta["format"] != FORMAT:
            raise _UnusableError("another version of this package made it")
        if meta["mark"] != mark:
            raise _UnusableError("the image files have changed since it was made")
        for n in NAMES:
            if _checksum(entry / f"{n}.npy") != meta["checksums"][n]:
                raise _UnusableError(f"{n}.npy is damaged (its checksum does not match)")
        # Plain views: objects of class memmap would be copied on their way into shared memory.
        arrays = {n: np.load(entry / f"{n}.npy", mmap_mode="r").view(np.ndarray) for n in NAMES}
        return arrays, meta["facts"]
    except (OSError, ValueError, KeyError) as error:
        raise _UnusableError(f"damaged ({type(error).__name__}: {error})") from None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total
