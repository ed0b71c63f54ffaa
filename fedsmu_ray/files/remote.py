"""Folders behind a URI, such as `s3://bucket/prefix`: what is used here of pathlib's interface.

An object store puts an object whole or not at all, but it has no locks, and no writer can know
whether another one is still alive. So nothing here is appended to or changed in place.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from fedsmu_ray.environment import results_path
from fedsmu_ray.files.secrets import cut_text

_URI = re.compile(r"[a-zA-Z][\w+.-]*://")
_OF_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # others are left to fsspec


class RemotePath:
    """A file or folder behind a URI. Every failure is an OSError that names the URI."""

    def __init__(self, filesystem: Any, path: str, uri: str) -> None:
        """filesystem: of pyarrow; path: in it."""
        self.filesystem, self.path, self.uri = filesystem, path.rstrip("/"), uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def parent(self) -> RemotePath:
        """The folder; of the outermost one, that one."""
        above = str(PurePosixPath(self.path).parent)
        if above in (".", self.path):
            return self
        own, mark, options = self.uri.partition("?")
        uri = own.rstrip("/").rpartition("/")[0] + mark + options
        return RemotePath(self.filesystem, above, uri)

    def __truediv__(self, name: str) -> RemotePath:
        own, mark, options = self.uri.partition("?")
        uri = f"{own.rstrip('/')}/{quote(name)}" + mark + options
        return RemotePath(self.filesystem, f"{self.path}/{name}", uri)

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"RemotePath({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        return bool(self._type())

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._type() == "File"

    def is_dir(self) -> bool:
        """Whether there is a folder."""
        return self._type() == "Directory"

    def lstat(self) -> None:
        """Raise FileNotFoundError if nothing is there."""
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", self.uri)

    def _type(self) -> str:
        """The name of pyarrow's FileType; "" if nothing is there."""
        with self._naming_errors():
            kind = self.filesystem.get_file_info(self.path).type.name
        return "" if kind == "NotFound" else str(kind)

    def iterdir(self) -> Iterator[RemotePath]:
        """The files and folders in a folder, in no order."""
        from pyarrow.fs import FileSelector

        with self._naming_errors():
            found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return iter([self / info.base_name for info in found])

    def read_bytes(self) -> bytes:
        """The contents of a file."""
        with self._naming_errors(), self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The text of a file."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, raw: bytes) -> None:
        """Write a file. If that is interrupted a part of it may be there."""
        with self._naming_errors(), self.filesystem.open_output_stream(self.path) as stream:
            stream.write(raw)

    def mkdir(self, mode: int = 0o700, parents: bool = True, exist_ok: bool = True) -> None:
        """Make a folder where the storage has such; its permissions are those of the storage."""
        with self._naming_errors():
            self.filesystem.create_dir(self.path, recursive=True)

    def rename(self, target: RemotePath) -> None:
        """Move a file, in place of the one that may be there; that is then the whole new one."""
        with self._naming_errors():
            self.filesystem.move(self.path, target.path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        try:
            with self._naming_errors():
                self.filesystem.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Remove a folder with all that is in it."""
        with self._naming_errors():
            self.filesystem.delete_dir(self.path)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        with naming_errors(self.uri):
            yield


Place = Path | RemotePath


@contextmanager
def naming_errors(uri: str) -> Iterator[None]:
    """Turn what a storage raises into an OSError with one line of text that names the URI."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", uri) from None
    except Exception as error:  # every kind of storage has its own exceptions
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(errno.EIO, cut_text(lines[0])[:300], uri) from None


def is_uri(text: str) -> bool:
    """Whether a text is a URI and not a path."""
    return bool(_URI.match(text))


def place(given: str | Path | RemotePath) -> Place:
    """The folder that a text stands for: a path (see `results_path`), or what a URI names.

    Raises OSError if the storage of a URI cannot be opened; whether the folder can be written is
    not known then.
    """
    if isinstance(given, RemotePath):
        return given
    if isinstance(given, str) and is_uri(given):
        with naming_errors(given):
            return RemotePath(*_open(given), given)
    return results_path(given)


def local_place(given: str | Path | RemotePath, name: str = "fedsmu_runs") -> Path:
    """`place` for files that stay on this host: for a URI, the folder `name` of results."""
    is_remote = isinstance(given, RemotePath) or is_uri(str(given))
    return results_path(name if is_remote else str(given))


def _open(uri: str) -> tuple[Any, str]:
    """The file system of pyarrow that a URI names, and the path in it."""
    from pyarrow import ArrowInvalid, fs

    scheme = uri.partition("://")[0]
    if scheme in _OF_ARROW:
        # One request for an object of a few megabytes instead of three.
        option = ("&" if "?" in uri else "?") + "allow_delayed_open=true" if scheme == "s3" else ""
        opened: tuple[Any, str]
        try:
            opened = fs.FileSystem.from_uri(uri + option)
        except ArrowInvalid:  # an earlier pyarrow does not know the option
            opened = fs.FileSystem.from_uri(uri)
        return opened
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), unquote(path)
