"""Locks of folders and files, so that two processes do not write the same ones.

A lock belongs to the operating system (flock): it ends with its process, however that ends, on this
host or on another one that shares the file system. Behind a URI there are no locks: who begins to
write a folder there takes it over, and who wrote it before notices that (`check_owner`). So does a
process that has lost its lock on a network file system with its connection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fedsmu_ray.errors import LockedError, TakenOverError
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place, RemotePath

log = logging.getLogger(__name__)

FOLDER_LOCK = ".lock"  # in a locked folder
POLL_INTERVAL_S = 0.1
_PROCESS = uuid.uuid4().hex  # tells this process from those of other hosts, too
_NOT_SUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def folder_lock(folder: Place, what: str, timeout_s: float = 0.0) -> Iterator[None]:
    """Exclusive use of an existing folder; what: the folder in messages, such as "the run in x".

    Raises LockedError, after `timeout_s` seconds, if another process, or another part of this one,
    has the lock. A folder behind a URI is taken over instead.
    """
    if isinstance(folder, RemotePath):
        write(folder / FOLDER_LOCK, _record())
        yield  # what is written stays: an earlier owner may look for it later
        return
    with file_lock(folder / FOLDER_LOCK, what, timeout_s):
        yield


@contextmanager
def file_lock(path: Path, what: str, timeout_s: float) -> Iterator[None]:
    """Exclusive use of what `path`, a lock file that is created if it is missing, stands for.

    Waits up to `timeout_s` seconds for another owner, then raises LockedError, which names the
    owner. On a file system without locks a warning is logged, and the caller goes on.
    """
    with open(
        path, "a+", encoding="utf-8", errors="replace"
    ) as file:  # does not truncate what the owner wrote
        _acquire(file, path, what, timeout_s)
        _write(file, _record())
        try:
            yield
        finally:
            _write(file, "")  # closing the file releases the lock


def check_owner(folder: Place) -> None:
    """Raise TakenOverError if another process has taken over a folder that this one writes."""
    try:
        text = (folder / FOLDER_LOCK).read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return
    owner = _parse(text)
    if owner.get("process", _PROCESS) != _PROCESS:
        raise TakenOverError(
            f"{folder} was taken over by {_told(owner)}, which goes on with what is there; this "
            "process ends"
        )


def _acquire(file: IO[str], path: Path, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                owner = _told(_parse(_read(file)))
                raise LockedError(
                    f"{what} is in use by {owner}; wait until it has ended, or stop it"
                ) from None
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            log.warning("%s: its file system has no locks (%s)", path, error)
            return None
        time.sleep(POLL_INTERVAL_S)


def _write(file: IO[str], text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock holds without its owner's name
        file.seek(0)
        file.truncate()
        file.write(text)
        file.flush()


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _record() -> str:
    """What a lock file says of its owner, this process."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    return json.dumps({**owner, "process": _PROCESS})


def _parse(text: str) -> dict[str, Any]:
    """The owner that a lock file names; empty if it names none."""
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _told(owner: dict[str, Any]) -> str:
    """An owner, for a message."""
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f"process {owner['pid']} on {owner['host']} (since {since})"
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
