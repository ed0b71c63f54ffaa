"""Folders of runs and sweeps, `<name>-<time>-<process id>`, and which of them is to be resumed."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fedsmu_ray.environment import expand_path, results_path
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.folders import private_folder, write
from fedsmu_ray.files.locks import FOLDER_LOCK, folder_lock
from fedsmu_ray.files.remote import Place, RemotePath, is_uri, place

_CODE = "import_path"  # file with the folders of the user's code, one a line
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

    def resume_command(self, folder: str | Place) -> str:
        """The command that resumes what is in a folder, for a shell."""
        return f"python -m fedsmu_ray.{self.command} --resume {shlex.quote(str(folder))}"


RUN = Kind("run", "train", "config.yaml", "checkpoint.folder")
SWEEP = Kind("sweep", "tune", "sweep.yaml", "tune.storage")


def new_name(name: str) -> str:
    """The name of a new folder."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


@contextmanager
def make_folder(
    kind: Kind, parent: str | Place, name: str, content: str, code: Sequence[str] = ()
) -> Iterator[Place]:
    """A new, private folder in `parent`, a path or a URI, locked until what runs in it has ended.

    content: of the file of its kind. It is written at once, so that a full disk is noticed before
    anything starts, and gets its name by `begin`. code: folders of the user's modules, which
    `code_folders` finds again. A folder that gets nothing else is removed. Raises ConfigError if
    `parent` is not a folder that can be written, and OSError for a full disk.
    """
    with ExitStack() as held:
        try:
            parent = place(parent)
            is_new = isinstance(parent, Path) and not parent.exists()
            folder = private_folder(parent / new_name(name))
            held.enter_context(folder_lock(folder, f"the {kind.what} in {folder}"))
        except OSError as error:
            raise _not_writable(kind, parent, error) from None
        try:
            write(folder / _prepared(kind), content)
            if code:
                write(folder / _CODE, "\n".join(code))
            yield folder
        finally:
            _remove_unused(kind, folder)
            if is_new and isinstance(parent, Path):
                with suppress(OSError):  # it has folders by now
                    parent.rmdir()


def _not_writable(kind: Kind, parent: str | Place, error: OSError) -> Exception:
    """What to raise if no folder can be made in `parent`: the error itself for a full disk."""
    problem = f"{kind.key} = {parent}: no folder can be made there ({error.strerror})"
    if is_uri(str(parent)):
        cure = "correct it, or see to it that this host may write there; a path is possible, too"
        return ConfigError([f"{problem}; {cure}"])
    return ConfigError([f"{problem}; choose another"]) if error.errno in _NOT_WRITABLE else error


def _remove_unused(kind: Kind, folder: Place) -> None:
    """Remove a folder in which nothing began."""
    if {entry.name for entry in folder.iterdir()} <= {FOLDER_LOCK, _CODE, _prepared(kind)}:
        if isinstance(folder, RemotePath):
            folder.remove_tree()
        else:
            shutil.rmtree(folder)


def begin(kind: Kind, folder: Place) -> None:
    """Note that what runs in a folder can no longer be refused: `find_folder` finds it from now."""
    prepared = folder / _prepared(kind)
    if prepared.exists():  # not if it is resumed
        write(folder / kind.file, prepared.read_bytes())
        prepared.unlink()


def code_folders(file: Place) -> list[str]:
    """The folders of the user's modules that the run or sweep of this file was started with."""
    if file.name not in (RUN.file, SWEEP.file):
        return []
    try:
        return (file.parent / _CODE).read_text(encoding="utf-8").splitlines()
    except OSError:  # it has none
        return []


def _prepared(kind: Kind) -> str:
    return f"{kind.file}.new"


def find_folder(
    kind: Kind, resume: str | Place, parent: str | Place = ".", name: str = ""
) -> Place:
    """The folder that `--resume` means: `resume`, or for "" the latest in `parent` of this name.

    Raises ConfigError, which says what is there instead, if it is not of this kind.
    """
    if str(resume):
        return given_folder(kind, str(resume), "--resume ")
    try:
        folders = _folders(kind, place(parent))
    except OSError as error:
        raise ConfigError([f"--resume: {parent}: cannot be read ({error.strerror})"]) from None
    if name not in folders:
        others = f"; there are {', '.join(sorted(folders)[:10])}" if folders else ""
        raise ConfigError(
            [f"--resume: no {kind.what} to resume in {parent}: none is named {name}{others}"]
        )
    return folders[name]


def latest_folder(kind: Kind, parent: str | Place) -> Place:
    """The latest folder of this kind in `parent`; raises ConfigError if there is none."""
    try:
        folders = _by_age(kind, place(parent))
    except OSError as error:
        raise ConfigError([f"{parent}: cannot be read ({error.strerror})"]) from None
    if not folders:
        raise ConfigError(
            [
                f"{parent}: there is no folder of a {kind.what} in it; run `{kind.command}` first, "
                "or give another folder"
            ]
        )
    return folders[-1][1]


def _folders(kind: Kind, parent: Place) -> dict[str, Place]:
    """The latest folder of this kind in `parent` for every name."""
    return {path.name[: made.start()]: path for made, path in _by_age(kind, parent)}


def _by_age(kind: Kind, parent: Place) -> list[tuple[re.Match[str], Place]]:
    """The folders of this kind in `parent`, the oldest first, with what follows their names."""
    paths: list[Place] = list(parent.iterdir()) if parent.is_dir() else []
    found = [(made, p) for p in paths if (made := _SUFFIX.search(p.name)) and _is(kind, p)]
    return sorted(found, key=lambda each: (each[0][1], int(each[0][2]), int(each[0][3] or 1)))


def _is(kind: Kind, folder: Place) -> bool:
    return (folder / kind.file).is_file()


def given_folder(kind: Kind, given: str, option: str = "") -> Place:
    """The folder of this kind that was given by the user, a path or a URI.

    option: precedes it in an error. Raises ConfigError, which says what is there instead.
    """
    try:
        folder = place(given) if is_uri(given) else _given_path(given)
        if _is(kind, folder):
            return folder
        problem = _explain(kind, folder)
    except ValueError as error:
        problem = str(error)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    raise ConfigError([f"{option}{given}: {problem}"])


def _given_path(given: str) -> Path:
    path = Path(expand_path(given))
    return path if path.exists() else results_path(path)


def _explain(kind: Kind, folder: Place) -> str:
    """Why a path is not a folder of this kind, and what was probably meant."""
    expected = f"not the folder of a {kind.what} (no {kind.file} in it)"
    if not folder.exists():
        names = [path.name for path in _folders(kind, folder.parent).values()]
        close = difflib.get_close_matches(folder.name, names, n=1)
        return "there is no such folder" + "".join(f"; did you mean {name}?" for name in close)
    if folder.is_file():
        meant = f", {folder.parent}" if _is(kind, folder.parent) else ""
        return f"a file; give the folder of a {kind.what}{meant}"
    for near in (folder, folder.parent, folder.parent.parent):  # checkpoints of a trial are inside
        for each in (SWEEP, RUN):
            if _is(each, near) and (near == folder or _SUFFIX.search(near.name)):
                return f"{expected}; it belongs to a {each.what}: {each.resume_command(near)}"
    if inner := _folders(kind, folder):
        return f"{expected}; give one of those that it holds, such as {list(inner.values())[-1]}"
    return expected
