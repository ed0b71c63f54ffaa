"""Checkpoints of an experiment: a folder of array files and one manifest that names them.

    checkpoint.json                 round, progress, and for every array file its SHA-256 and the clients it holds
    server-<round>.safetensors      the server state
    states-<round>-<k>.safetensors  a shard of client states, as it came from a client task

A checkpoint exists once its manifest has been renamed into place, and the files of the one before are removed only after
that: a crash or a full disk leaves the previous checkpoint as it was. Shards that a manifest already names are not written
again, so a checkpoint costs what has changed since the last one. There are no pickles; loading one runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedsmu_ray.errors import CheckpointError

VERSION = 2
MANIFEST = "checkpoint.json"
_FILE = re.compile(r"(server-[0-9]+|states-[0-9]+-[0-9]+)\.safetensors")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _File:
    file: Annotated[str, Field(strict=True)]
    sha256: Annotated[str, Field(strict=True)]


@dataclass(frozen=True)
class _Shard(_File):
    clients: dict[
        Annotated[str, Field(strict=True, pattern="^(0|[1-9][0-9]{0,9})$")],
        Annotated[int, Field(strict=True, ge=0)],
    ]


@dataclass(frozen=True)
class _Manifest:
    version: int
    progress: Annotated[dict[str, Any], Field(strict=True)]
    server: _File
    shards: list[_Shard]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read back. The shards are read one by one, since together they may exceed memory."""

    progress: dict[str, Any]  # what the writer gave as `progress`
    server: dict[str, np.ndarray]
    # Arrays [R, P], client -> row, and what to note in `Checkpoint.written` for the handle the shard is given.
    shards: Callable[[], Iterator[tuple[dict[str, np.ndarray], dict[int, int], tuple[str, str]]]]


class Checkpoint:
    """The checkpoint of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.written: dict[
            Hashable, tuple[str, str]
        ] = {}  # shard handle -> (file, SHA-256), of the current manifest

    def save(
        self,
        round: int,
        progress: Mapping[str, Any],
        server: Arrays,
        places: Mapping[int, tuple[Hashable, int]],
        fetch: Callable[[Any], Arrays],
    ) -> None:
        """Write the state after `round`; raises OSError and leaves the previous checkpoint if that fails.

        places: client -> (shard handle, row). fetch: shard handle -> arrays, called only for shards not yet written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        made: list[str] = []
        try:
            shards, rows = {}, {}
            for client, (shard, row) in places.items():
                if shard not in shards:
                    name = f"states-{round}-{len(made)}.safetensors"
                    shards[shard] = self.written.get(shard) or self._write(name, fetch(shard), made)
                rows.setdefault(shards[shard][0], {})[str(client)] = row
            file, digest = self._write(f"server-{round}.safetensors", server, made)
            manifest = {
                "version": VERSION,
                "progress": dict(progress),
                "server": {"file": file, "sha256": digest},
                "shards": [
                    {"file": f, "sha256": h, "clients": rows[f]} for f, h in shards.values()
                ],
            }
            text = json.dumps(manifest)
            self._replace(
                MANIFEST, json.dumps({"sha256": _sha256(text.encode()), "manifest": text}).encode()
            )
        except BaseException:
            for name in made:
                (self.folder / name).unlink(missing_ok=True)
            raise
        self.written = shards
        keep = {file, *(f for f, _ in shards.values())}
        for path in self.folder.iterdir():
            if _FILE.fullmatch(path.name) and path.name not in keep:
                path.unlink()

    def load(self) -> Loaded | None:
        """The checkpoint, or None if none was ever completed; raises CheckpointError for one that is damaged."""
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            outer = json.loads(_bytes(path))
            text = outer["manifest"]
            if _sha256(text.encode()) != outer["sha256"]:
                raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
            plain = json.loads(text)
            if plain["version"] != VERSION:
                raise CheckpointError(
                    f"{path}: version {str(plain['version'])[:20]}, this program reads version {VERSION}"
                )
            manifest = TypeAdapter(_Manifest).validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))[:100]
            raise CheckpointError(
                f"{path}: not a checkpoint manifest ({where}: {first['msg']})"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: not a checkpoint manifest ({str(error)[:200]})"
            ) from None

        def shards() -> Iterator[tuple[dict[str, np.ndarray], dict[int, int], tuple[str, str]]]:
            for shard in manifest.shards:
                arrays, rows = (
                    self._read(shard),
                    {int(client): row for client, row in shard.clients.items()},
                )
                there = min((len(a) if a.ndim else 0 for a in arrays.values()), default=0)
                for client, row in rows.items():
                    if row >= there:
                        raise CheckpointError(
                            f"{path}: client {client} is row {row} of {shard.file}, which has {there}"
                        )
                yield arrays, rows, (shard.file, shard.sha256)

        return Loaded(manifest.progress, self._read(manifest.server), shards)

    def _write(self, name: str, arrays: Arrays, made: list[str]) -> tuple[str, str]:
        raw = save({key: np.ascontiguousarray(value) for key, value in arrays.items()})
        made.append(name)
        self._replace(name, raw)
        return name, _sha256(raw)

    def _replace(self, name: str, raw: bytes) -> None:
        """Write a file so that it is there whole or not at all, even after a power cut."""
        part = self.folder / f"{name}.part"
        try:
            with open(part, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _read(self, named: _File) -> dict[str, np.ndarray]:
        path = self.folder / named.file
        if not _FILE.fullmatch(named.file):
            raise CheckpointError(
                f"{self.folder / MANIFEST}: names a file that is none of a checkpoint's: "
                f"{named.file[:100]!r}"
            )
        raw = _bytes(path)
        if _sha256(raw) != named.sha256:
            raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
        try:
            return load(raw)
        except (
            SafetensorError,
            ValueError,
            KeyError,
        ) as error:  # KeyError: a type of number that numpy does not have
            raise CheckpointError(f"{path}: not an array file ({str(error)[:200]})") from None


def _bytes(path: Path) -> bytes:
    """The contents of a regular file; anything else might never end."""
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
