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
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedsmu_ray.errors import CheckpointError

VERSION = 1
MANIFEST = "checkpoint.json"
_FILE = re.compile(r"(server-\d+|states-\d+-\d+)\.safetensors")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint read back. The shards are read one by one, since together they may exceed memory."""

    progress: dict[str, Any]  # what the writer gave as `progress`
    server: dict[str, np.ndarray]
    shards: Callable[[], Iterator[tuple[dict[str, np.ndarray], dict[int, int]]]]  # arrays [R, P], and client -> row


class Checkpoint:
    """The checkpoint of one run, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.written: dict[Hashable, tuple[str, str]] = {}  # shard handle -> (file, SHA-256), of the current manifest

    def save(self, round: int, progress: Mapping[str, Any], server: Arrays, places: Mapping[int, tuple[Hashable, int]],
             fetch: Callable[[Any], Arrays]) -> None:
        """Write the state after `round`; raises OSError and leaves the previous checkpoint if that fails.

        places: client -> (shard handle, row). fetch: shard handle -> arrays, called only for shards not yet written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        made: list[str] = []
        try:
            shards, rows = {}, {}
            for client, (shard, row) in places.items():
                if shard not in shards:
                    shards[shard] = self.written.get(shard) or self._write(f"states-{round}-{len(made)}.safetensors", fetch(shard), made)
                rows.setdefault(shards[shard][0], {})[str(client)] = row
            file, digest = self._write(f"server-{round}.safetensors", server, made)
            manifest = {"version": VERSION, "progress": dict(progress), "server": {"file": file, "sha256": digest},
                        "shards": [{"file": f, "sha256": h, "clients": rows[f]} for f, h in shards.values()]}
            text = json.dumps(manifest)
            self._replace(MANIFEST, json.dumps({"sha256": _sha256(text.encode()), "manifest": text}).encode())
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
            outer = json.loads(path.read_bytes())
            text = outer["manifest"]
            if _sha256(text.encode()) != outer["sha256"]:
                raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
            manifest = json.loads(text)
            if manifest["version"] != VERSION:
                raise CheckpointError(f"{path}: version {manifest['version']}, this program reads version {VERSION}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a checkpoint manifest ({error})") from None

        def shards() -> Iterator[tuple[dict[str, np.ndarray], dict[int, int]]]:
            for shard in manifest["shards"]:
                yield self._read(shard["file"], shard["sha256"]), {int(c): row for c, row in shard["clients"].items()}

        return Loaded(manifest["progress"], self._read(manifest["server"]["file"], manifest["server"]["sha256"]), shards)

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

    def _read(self, name: str, digest: str) -> dict[str, np.ndarray]:
        path = self.folder / name
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{self.folder / MANIFEST}: names a file that is none of a checkpoint's: {name!r}")
        try:
            raw = path.read_bytes()
            if _sha256(raw) != digest:
                raise CheckpointError(f"{path}: checksum mismatch, the file is damaged")
            return load(raw)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{path}: not an array file ({error})") from None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
