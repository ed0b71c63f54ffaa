"""Folders and files that only their owner can read; a file is written whole or not at all."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

PART = ".part"  # the suffix of a file that is being written


def private_folder(path: Path) -> Path:
    """Make a new folder that only its owner can enter (0700); returns its path.

    If `path` exists already, `-2`, `-3`, ... is appended. Missing parents are made with the usual
    permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(mode=0o700)
            return folder
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def write(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner can read (0600), in place of the one that may be there.

    It exists whole or not at all, even after a power failure. Text is written as UTF-8. Raises
    OSError, and leaves the file as it was, if that fails.
    """
    raw = content.encode() if isinstance(content, str) else content
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


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
