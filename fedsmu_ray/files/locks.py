"""Locks of folders and files, so that two processes do not write the same ones.

A lock belongs to the operating system (flock): it ends with its process, however that ends, on this
host or on another one that shares the file system. What the lock file says about its owner is only
for messages.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedsmu_ray.errors import LockedError

log = logging.getLogger(__name__)

FOLDER_LOCK = ".lock"  # in a locked folder
POLL_INTERVAL_S = 0.1
_NOT_SUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def folder_lock(folder: Path, what: str, timeout_s: float = 0.0) -> Iterator[None]:
    """Exclusive use of an existing folder; what: the folder in messages, such as "the run in x".

    Raises LockedError, after `timeout_s` seconds, if another process, or another part of this one,
    has the lock.
    """
    with file_lock(folder / FOLDER_LOCK, what, timeout_s):
        yield


@contextmanager
def file_lock(path: Path, what: str, timeout_s: float) -> Iterator[None]:
    """Exclusive use of what `path`, a lock file that is created if it is missing, stands for.

    Waits up to `timeout_s` seconds for another owner, then raises LockedError, which names the
    owner. On a file system without locks a warning is logged, and the caller goes on.
    """
    with open(path, "a+", encoding="utf-8") as file:  # does not truncate what the owner wrote
        _acquire(file, path, what, timeout_s)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        _write(file, json.dumps(owner))
        try:
            yield
        finally:
            _write(file, "")  # closing the file releases the lock


def _acquire(file: IO[str], path: Path, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{what} is in use by {_owner(file)}; wait until it has ended, or stop it"
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


def _owner(file: IO[str]) -> str:
    """The owner of a lock, for a message."""
    try:
        file.seek(0)
        owner = json.loads(file.read())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f"process {owner['pid']} on {owner['host']} (since {since})"
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
