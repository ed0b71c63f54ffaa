"""Folders and files that only their owner can read; a file is written whole or not at all.

Who may read what is behind a URI is decided there.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import overload

from fedsmu_ray.files.remote import Place, RemotePath

PART = ".part"  # the suffix of a file that is being written


@overload
def private_folder(path: Path) -> Path: ...
@overload
def private_folder(path: Place) -> Place: ...
def private_folder(path: Place) -> Place:
    """Make a new folder that only its owner can enter (0700); returns its path.

    If `path` exists already, `-2`, `-3`, ... is appended. Missing parents are made with the usual
    permissions. Behind a URI two processes could make the same folder, so there a random number is
    appended.
    """
    if isinstance(path, RemotePath):
        remote = path.parent / f"{path.name}-{uuid.uuid4().int % 10**9:09}"
        remote.mkdir()
        return remote
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(mode=0o700)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def write(path: Place, content: str | bytes) -> None:
    """Write a file that only its owner can read (0600), in place of the one that may be there.

    It exists whole or not at all, even after a power failure. Text is written as UTF-8. Raises
    OSError, and leaves the file as it was, if that fails. (Behind a URI it may have been written,
    too: the response can be lost.)
    """
    raw = content.encode() if isinstance(content, str) else content
    if isinstance(path, RemotePath):
        _write_remote(path, raw)
        return
    part = path.with_name(f"{path.name}{PART}")
    part.unlink(missing_ok=True)  # of a process that was killed while it wrote
    try:
        with open(part, "xb", opener=_open_private) as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_remote(path: RemotePath, raw: bytes) -> None:
    # An interrupt between opening and writing leaves an empty object, so it is not at its place.
    part = path.parent / f"{path.name}{PART}-{uuid.uuid4().hex[:8]}"
    try:
        part.write_bytes(raw)
        part.rename(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
