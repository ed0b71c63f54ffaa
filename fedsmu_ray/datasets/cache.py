"""Decoded images on disk, so that 110,000 JPEGs are decoded once per machine and not once per trial.

An entry is a folder of .npy files and meta.json, in $FEDSMU_CACHE or else fedsmu_ray/ in the user's cache folder. It
appears by one rename, so it is there whole or not at all; it names the files it was made of (sizes and times) and the
checksum of every array, so that it is rebuilt when either no longer fits. Arrays are mapped, not read: the processes
of a machine share their pages.
"""

from __future__ import annotations

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

from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

FORMAT = 1  # of an entry; a new one makes old entries be rebuilt
NAMES = ("train_x", "train_y", "test_x", "test_y")
BLOCK = 1 << 24  # bytes checksummed at a time


def folder() -> Path:
    """Where entries are kept."""
    own = os.environ.get("FEDSMU_CACHE")
    return (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedsmu_ray"
    )


def fingerprint(files: Iterable[tuple[str, int]]) -> str:
    """Of (path, label) pairs, with the files' sizes and modification times."""
    digest = hashlib.sha256()
    for path, label in files:
        stat = os.stat(path)
        digest.update(
            f"{path}\0{label}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(
                "utf-8", "surrogateescape"
            )
        )
    return digest.hexdigest()


def cached(
    name: str, root: Path, mark: str, nbytes: int, make: Callable[[Path], dict[str, Any]]
) -> tuple[dict, dict]:
    """Arrays (NAMES, read-only, mapped) and facts of the entry for `root`, made if it is missing, stale or damaged.

    mark: fingerprint of what it is made of. nbytes: size of the arrays, in bytes. make: writes NAMES[i].npy into a
    folder and returns facts for meta.json. Raises ConfigError when the entry cannot be written.
    """
    where = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    entry = folder() / f"{name}-{where}"
    try:
        return _load(entry, mark)
    except FileNotFoundError:
        pass
    except _Unfit as error:
        log.warning("%s: %s; decoding the images again", entry, error)
    try:
        folder().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder()).free
        if free < nbytes:  # a mapped file on a full disk would end the process without a word
            raise OSError(f"{nbytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free")
        with tempfile.TemporaryDirectory(prefix=f".{entry.name}.", dir=folder()) as made:
            new = Path(made) / "entry"
            new.mkdir()
            facts = make(new)
            sums = {n: _checksum(new / f"{n}.npy") for n in NAMES}
            (new / "meta.json").write_text(
                json.dumps({"format": FORMAT, "mark": mark, "checksums": sums, "facts": facts})
            )
            if entry.exists():
                entry.rename(Path(made) / "old")
            new.rename(entry)
        return _load(entry, mark)
    except (OSError, _Unfit) as error:
        raise ConfigError(
            [
                f"the cache of decoded images {entry} cannot be written: {error}; point $FEDSMU_CACHE to a folder "
                "with room"
            ]
        ) from error


class _Unfit(Exception):
    """Why an entry cannot be used."""


def _load(entry: Path, mark: str) -> tuple[dict, dict]:
    """Raises FileNotFoundError for no entry and _Unfit for a stale or damaged one."""
    if not entry.is_dir():
        raise FileNotFoundError(entry)
    try:
        meta = json.loads((entry / "meta.json").read_text())
        if meta["format"] != FORMAT or meta["mark"] != mark:
            raise _Unfit("made of other files than there are now")
        for n in NAMES:
            if _checksum(entry / f"{n}.npy") != meta["checksums"][n]:
                raise _Unfit(f"{n}.npy is damaged (its checksum does not fit)")
        # Plain views: a memmap object would lose its zero-copy way into shared memory.
        arrays = {n: np.load(entry / f"{n}.npy", mmap_mode="r").view(np.ndarray) for n in NAMES}
        return arrays, meta["facts"]
    except (OSError, ValueError, KeyError) as error:
        raise _Unfit(f"damaged ({type(error).__name__}: {error})") from None


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total
