"""Checkpoints of an experiment: a folder of array files and one manifest that names them.

    checkpoint.json                       round, progress, SHA-256 and clients of the array files
    server-<round>-<tag>.safetensors      the server state
    states-<round>-<k>-<tag>.safetensors  a shard of client states, as it came from a client task

The tag tells who wrote a file from others (checkpoints of earlier releases have none).

A checkpoint exists once its manifest has been renamed into place, and the files of the one before
are removed only after that: a crash or a full disk leaves the previous checkpoint as it was. Shards
that the manifest already names are not written again, so a checkpoint costs what has changed since
the last one. There are no pickles; loading a checkpoint runs no code.

Two processes may write one checkpoint: one whose node was cut off and believed dead, and the one
that has resumed its run. The first stops before its next manifest (`check_owner`), and the names of
their files differ, so it has damaged nothing. Behind a URI nothing excludes that it looked just
before the other began. There a checkpoint therefore has only files of the process that wrote its
manifest, and no process removes those of another one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedsmu_ray.errors import CheckpointError
from fedsmu_ray.federation.tasks import Arrays, Handle, StateRef
from fedsmu_ray.files.folders import PART, write
from fedsmu_ray.files.locks import check_owner
from fedsmu_ray.files.remote import Place, RemotePath

log = logging.getLogger(__name__)

VERSION = 2
MANIFEST = "checkpoint.json"
_ARRAY_FILE = re.compile(r"(server-[0-9]+|states-[0-9]+-[0-9]+)(-[0-9a-f]{8})?\.safetensors")

# The name of a file is a name in the checkpoint's folder, never a path.
_FileName = Annotated[str, Field(strict=True, pattern=rf"^{_ARRAY_FILE.pattern}$")]
_Sha256 = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]
_ClientKey = Annotated[str, Field(strict=True, pattern="^(0|[1-9][0-9]{0,9})$")]
_RowNumber = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


@dataclass(frozen=True)
class ArrayFile:
    """An array file of a checkpoint, as the manifest names it."""

    file: _FileName
    sha256: _Sha256


@dataclass(frozen=True)
class _ShardEntry(ArrayFile):
    clients: Annotated[dict[_ClientKey, _RowNumber], Field(min_length=1)]


def _each_once(shards: list[_ShardEntry]) -> list[_ShardEntry]:
    """Every file, every client, and every row of a file is named once."""
    seen: set[str] = set()
    for shard in shards:
        rows = [f"row {row} of {shard.file}" for row in shard.clients.values()]
        for name in (shard.file, *rows, *(f"client {client}" for client in shard.clients)):
            if name in seen:
                raise ValueError(f"{name} is named twice")
            seen.add(name)
    return shards


@dataclass(frozen=True)
class _Manifest:
    version: int
    progress: Annotated[dict[str, Any], Field(strict=True)]
    server: ArrayFile
    shards: Annotated[list[_ShardEntry], AfterValidator(_each_once)]


class SavedShard(NamedTuple):
    """A shard of client states that was read back."""

    arrays: dict[str, NDArray[Any]]  # [R, P] each
    rows: dict[int, int]  # client -> row
    file: ArrayFile  # for `Checkpoint.adopt`


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read back."""

    progress: dict[str, Any]  # what `save` was given
    server: dict[str, NDArray[Any]]
    server_file: Place
    clients: frozenset[int]  # whose states are in the shards
    shards: Callable[[], Iterator[SavedShard]]  # reads one at a time: all may exceed memory


@dataclass
class Checkpoint:
    """The checkpoint of one run, in `folder`."""

    folder: Place
    _files: dict[Handle, ArrayFile] = field(default_factory=dict, init=False)  # of the manifest
    _own: set[str] = field(default_factory=set, init=False)  # behind a URI: files written here

    def __post_init__(self) -> None:
        self._is_remote = isinstance(self.folder, RemotePath)
        self._tag = _new_tag()

    def save(
        self,
        round: int,
        progress: Mapping[str, Any],
        server: Arrays,
        states: Mapping[int, StateRef],
        get_shard: Callable[[Handle], Arrays],
    ) -> None:
        """Write the state after `round`, in place of the previous checkpoint.

        states: where each client's state is. get_shard: arrays of a shard, called only for shards
        that are not in the previous checkpoint. Raises OSError, and keeps the previous checkpoint,
        if that fails, and TakenOverError if another process has the run now.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new: list[str] = []  # files written for this checkpoint
        try:
            shards = self._write_shards(round, states, get_shard, new)
            server_file = self._write_arrays(f"server-{round}", server, new)
            check_owner(self.folder)
            if self._is_remote:  # the manifest may be there although its response is lost
                self._own.update(new)
                new.clear()
            self._write_manifest(progress, server_file, shards, states)
        except BaseException:
            for name in new:
                (self.folder / name).unlink(missing_ok=True)
            raise
        self._files = shards
        self._remove_all_but({server_file.file, *(shard.file for shard in shards.values())})

    def _remove_all_but(self, keep: set[str]) -> None:
        names = self._own if self._is_remote else {path.name for path in self.array_files()}
        for name in names - keep:
            try:
                (self.folder / name).unlink(missing_ok=True)
                self._own.discard(name)
            except OSError as error:
                log.warning("a file of an earlier checkpoint cannot be removed (%s)", error)

    def array_files(self) -> list[Place]:
        """The array files in the folder, of any checkpoint, and those of an interrupted write."""
        names = ((path, path.name.removesuffix(PART)) for path in self.folder.iterdir())
        return [path for path, name in names if _ARRAY_FILE.fullmatch(name)]

    def load(self) -> Loaded | None:
        """The checkpoint, or None if there is none; raises CheckpointError if it is damaged."""
        path = self.folder / MANIFEST
        try:
            path.lstat()  # a link to nothing is a damaged checkpoint, not a missing one
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        manifest = _read_manifest(path)
        return Loaded(
            manifest.progress,
            self._read_arrays(manifest.server),
            self.folder / manifest.server.file,
            frozenset(int(client) for shard in manifest.shards for client in shard.clients),
            lambda: self._read_shards(manifest),
        )

    def adopt(self, handle: Handle, file: ArrayFile) -> None:
        """Note that the shard with this handle is in `file`, so that `save` does not write it."""
        if not self._is_remote:  # there the process that wrote the file may remove it
            self._files[handle] = file

    def _write_shards(
        self,
        round: int,
        states: Mapping[int, StateRef],
        get_shard: Callable[[Handle], Arrays],
        new: list[str],
    ) -> dict[Handle, ArrayFile]:
        """Write the shards that have no file yet; returns the file of each."""
        files: dict[Handle, ArrayFile] = {}
        for state in states.values():
            shard = state.shard
            if shard in files:
                continue
            if shard in self._files:
                files[shard] = self._files[shard]
            else:
                name = f"states-{round}-{len(new)}"
                files[shard] = self._write_arrays(name, get_shard(shard), new)
        return files

    def _write_arrays(self, name: str, arrays: Arrays, new: list[str]) -> ArrayFile:
        raw = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        file = f"{name}{self._tag}.safetensors"
        new.append(file)
        path = self.folder / file
        if isinstance(path, RemotePath):
            path.write_bytes(raw)  # nobody reads it before a manifest names it
        else:
            write(path, raw)
        return ArrayFile(file, _sha256(raw))

    def _write_manifest(
        self,
        progress: Mapping[str, Any],
        server: ArrayFile,
        shards: Mapping[Handle, ArrayFile],
        states: Mapping[int, StateRef],
    ) -> None:
        rows: dict[str, dict[str, int]] = {shard.file: {} for shard in shards.values()}
        for client, state in states.items():
            rows[shards[state.shard].file][str(client)] = state.row
        manifest = {
            "version": VERSION,
            "progress": dict(progress),
            "server": {"file": server.file, "sha256": server.sha256},
            "shards": [
                {"file": shard.file, "sha256": shard.sha256, "clients": rows[shard.file]}
                for shard in shards.values()
            ],
        }
        text = json.dumps(manifest)
        signed = json.dumps({"sha256": _sha256(text.encode()), "manifest": text})
        write(self.folder / MANIFEST, signed)

    def _read_shards(self, manifest: _Manifest) -> Iterator[SavedShard]:
        for shard in manifest.shards:
            arrays = self._read_arrays(shard)
            rows = {int(client): row for client, row in shard.clients.items()}
            length = min((len(a) if a.ndim else 0 for a in arrays.values()), default=0)
            for client, row in rows.items():
                if row >= length:
                    raise CheckpointError(
                        f"{self.folder / MANIFEST}: client {client} is row {row} of {shard.file}, "
                        f"which has {length}"
                    )
            yield SavedShard(arrays, rows, ArrayFile(shard.file, shard.sha256))

    def _read_arrays(self, named: ArrayFile) -> dict[str, NDArray[Any]]:
        path = self.folder / named.file
        raw = _read_bytes(path)
        if _sha256(raw) != named.sha256:
            raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
        try:
            return load(raw)
        except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype numpy lacks
            raise CheckpointError(f"{path}: not an array file ({str(error)[:200]})") from None


def _new_tag() -> str:
    return f"-{uuid.uuid4().hex[:8]}"


def _read_manifest(path: Place) -> _Manifest:
    """The manifest in a file; raises CheckpointError for anything else in it."""
    try:
        signed = json.loads(_read_bytes(path))
        text = signed["manifest"]
        if _sha256(text.encode()) != signed["sha256"]:
            raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
        plain = json.loads(text)
        if plain["version"] != VERSION:
            raise CheckpointError(
                f"{path}: version {str(plain['version'])[:20]}, this program reads version "
                f"{VERSION}"
            )
        return TypeAdapter(_Manifest).validate_python(plain)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {describe_problem(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint manifest ({str(error)[:200]})") from None


def describe_problem(error: ValidationError, prefix: str = "") -> str:
    """What is wrong with a manifest: the first field that pydantic has refused, and its value."""
    first = error.errors()[0]
    field = ".".join(map(str, ([prefix] if prefix else []) + list(first["loc"])))[:100]
    value = "" if first["type"] == "missing" else f" = {repr(first['input'])[:60]}"
    return f"not a checkpoint manifest ({field}{value}: {first['msg'][:200]})"


def _read_bytes(path: Place) -> bytes:
    """The contents of a regular file; reading anything else might never end."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: does not fit the memory") from None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
