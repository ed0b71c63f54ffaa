"""Folders of runs and sweeps, `<name>-<time>-<process id>`, and which of them is to be resumed."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedsmu_ray.environment import expand_path, results_path
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.folders import private_folder, write
from fedsmu_ray.files.locks import FOLDER_LOCK, folder_lock

_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),  # below a file, at one, and in /proc
)
_SUFFIX = re.compile(r"-([0-9]{8}-[0-9]{6})-([0-9]+)(?:-([0-9]+))?$")


@dataclass(frozen=True)
class Kind:
    """A kind of folder."""

    what: str
    command: str  # that makes and resumes it
    file: str  # that every folder of this kind has, and no other
    key: str  # of the configuration: where such folders are made

    def resume_command(self, folder: str | Path) -> str:
        """The command that resumes what is in a folder, for a shell."""
        return f"python -m fedsmu_ray.{self.command} --resume {shlex.quote(str(folder))}"


RUN = Kind("run", "train", "config.yaml", "checkpoint.folder")
SWEEP = Kind("sweep", "tune", "sweep.yaml", "tune.storage")


def new_name(name: str) -> str:
    """The name of a new folder."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


@contextmanager
def make_folder(kind: Kind, parent: str | Path, name: str, content: str) -> Iterator[Path]:
    """A new, private folder in `parent`, locked until what runs in it has ended.

    content: of the file of its kind. It is written at once, so that a full disk is noticed before
    anything starts, and gets its name by `begin`. A folder that gets nothing else is removed.
    Raises ConfigError if `parent` is not a folder that can be written, and OSError for a full disk.
    """
    parent = results_path(parent)
    try:
        is_new = not parent.exists()
        folder = private_folder(parent / new_name(name))
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        problem = f"{kind.key} = {parent}: no folder can be made there ({error.strerror})"
        raise ConfigError([f"{problem}; choose another"]) from None
    with folder_lock(folder, f"the {kind.what} in {folder}"):
        prepared = folder / _prepared(kind)
        try:
            write(prepared, content)
            yield folder
        finally:
            if {entry.name for entry in folder.iterdir()} <= {FOLDER_LOCK, prepared.name}:
                shutil.rmtree(folder)
                if is_new:
                    with suppress(OSError):  # it has other folders by now
                        parent.rmdir()


def begin(kind: Kind, folder: Path) -> None:
    """Note that what runs in a folder can no longer be refused: `find_folder` finds it from now."""
    prepared = folder / _prepared(kind)
    if prepared.exists():  # not if it is resumed
        prepared.rename(folder / kind.file)


def _prepared(kind: Kind) -> str:
    return f"{kind.file}.new"


def find_folder(kind: Kind, resume: str | Path, parent: str | Path = ".", name: str = "") -> Path:
    """The folder that `--resume` means: `resume`, or for "" the latest in `parent` of this name.

    Raises ConfigError, which says what is there instead, if it is not of this kind.
    """
    if str(resume):
        return _given(kind, str(resume))
    folders = _folders(kind, results_path(parent))
    if name not in folders:
        others = f"; there are {', '.join(sorted(folders)[:10])}" if folders else ""
        raise ConfigError(
            [f"--resume: no {kind.what} to resume in {parent}: none is named {name}{others}"]
        )
    return folders[name]


def _folders(kind: Kind, parent: Path) -> dict[str, Path]:
    """The latest folder of this kind in `parent` for every name."""
    paths = parent.iterdir() if parent.is_dir() else []
    found = [(made, p) for p in paths if (made := _SUFFIX.search(p.name)) and _is(kind, p)]
    found.sort(key=lambda each: (each[0][1], int(each[0][2]), int(each[0][3] or 1)))
    return {path.name[: made.start()]: path for made, path in found}


def _is(kind: Kind, folder: Path) -> bool:
    return (folder / kind.file).is_file()


def _given(kind: Kind, given: str) -> Path:
    try:
        path = Path(expand_path(given))
        folder = path if path.exists() else results_path(path)
    except ValueError as error:
        raise ConfigError([f"--resume {given}: {error}"]) from None
    if not _is(kind, folder):
        raise ConfigError([f"--resume {given}: {_explain(kind, folder)}"])
    return folder


def _explain(kind: Kind, folder: Path) -> str:
    """Why a path is not a folder of this kind, and what was probably meant."""
    expected = f"not the folder of a {kind.what} (no {kind.file} in it)"
    if not folder.exists():
        names = [path.name for path in _folders(kind, folder.parent).values()]
        close = difflib.get_close_matches(folder.name, names, n=1)
        return "there is no such folder" + "".join(f"; did you mean {name}?" for name in close)
    if folder.is_file():
        meant = f", {folder.parent}" if _is(kind, folder.parent) else ""
        return f"a file; give the folder of a {kind.what}{meant}"
    for place in (folder, folder.parent, folder.parent.parent):  # checkpoints of a trial are inside
        for each in (SWEEP, RUN):
            if _is(each, place) and (place == folder or _SUFFIX.search(place.name)):
                return f"{expected}; it belongs to a {each.what}: {each.resume_command(place)}"
    if inner := _folders(kind, folder):
        return f"{expected}; give one of those that it holds, such as {list(inner.values())[-1]}"
    return expected
