"""Writes of a run that the tracking server has not confirmed yet, in the required order."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fedsmu_ray.files.folders import write
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.tracking.base import NewFile, NewModel, RoundCursor

log = logging.getLogger(__name__)

TIMES = ("final/seconds",)  # final metrics that differ whenever a run is resumed


class Point(NamedTuple):
    """Metrics of one round."""

    step: int  # the round; 0 for final metrics
    timestamp: int  # milliseconds since the epoch
    metrics: dict[str, float]


@dataclass
class Write:
    """One write."""

    what: str  # the kind of write; of a file, its name
    values: Any  # plain data, a NewModel or a NewFile
    # Files and models go to the artifact store, which may fail while the server works.
    is_file: bool = False


@dataclass
class PendingRun:
    """What is still to be written of one run."""

    run_id: str  # a local id until the run has been created in the store
    may_exist: bool = False  # a creation was attempted: the run may be in the store already
    is_open: bool = False  # more writes will follow
    is_starting: bool = False  # nobody has its id yet; for ever, if that was interrupted
    writes: list[Write] = field(default_factory=list)
    cursor: RoundCursor = field(default_factory=RoundCursor)  # rounds that the store has
    finals: Mapping[str, float] = field(default_factory=dict)  # final metrics that the store has
    refusal: str | None = None  # why the store has refused the run as a whole, if it has

    def add(self, what: str, values: object) -> None:
        """Append a write."""
        self.writes.append(Write(what, values))

    def add_model(self, model: NewModel) -> None:
        """Append the model of the run."""
        self.writes.append(Write("model", model, is_file=True))

    def add_file(self, file: NewFile) -> None:
        """Append a file."""
        self.writes.append(Write(file.name, file, is_file=True))

    def add_point(self, point: Point) -> None:
        """Append metrics; consecutive rounds share a write."""
        if not self.writes or self.writes[-1].what != "metrics":
            self.add("metrics", [])
        self.writes[-1].values.append(point)

    def new_points(self, points: list[Point]) -> list[Point]:
        """Those of `points` that the store lacks: each new round and each final metric once."""
        cursor, new = RoundCursor(self.cursor.last), []
        for point in points:
            if point.step == 0:
                new += self._new_finals(point)
            elif cursor.is_new(point.step):
                new.append(point)
                cursor.advance(point.step)
        return new

    def _new_finals(self, point: Point) -> list[Point]:
        """The final metrics that have changed. Of an unchanged run not even the time has."""
        changed = {
            name: value
            for name, value in point.metrics.items()
            if name not in self.finals or not _same(value, self.finals[name])
        }
        is_new = any(name not in self.finals or name not in TIMES for name in changed)
        return [point._replace(metrics=changed)] if is_new else []

    def postpone_file(self) -> bool:
        """Move the first write, a file, behind all others; False if there are only files."""
        if all(write.is_file for write in self.writes):
            return False
        self.writes.append(self.writes.pop(0))
        return True

    def describe(self, write: Write) -> Mapping[str, Any]:
        """A write that could not be made, as a line of the file that is left instead."""
        values = write.values
        if isinstance(values, (NewModel, NewFile)):
            values = values.plain()
        elif write.what == "metrics":
            values = self.new_points(values)
        return {"run": self.run_id, "what": write.what, "values": values}


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def leave_file(folder: Path, uri: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Write to a file what could not be written to the store at `uri`, one JSON object per line.

    NaN and infinity are null there. Returns its path, or "" if it cannot be written.
    """
    path = folder / f"not-in-mlflow-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, "".join(to_json(line) + "\n" for line in lines))
    except OSError as error:
        log.warning(
            "MLflow at %s did not accept everything, and what is missing there is lost: %s "
            "cannot be written (%s)",
            uri,
            path,
            error.strerror,
        )
        return ""
    log.warning(
        "MLflow at %s did not accept everything; what is missing there is in %s",
        uri,
        path.absolute(),
    )
    return str(path.absolute())


def now() -> int:
    """Milliseconds since the epoch, as MLflow counts time."""
    return int(time.time() * 1000)
