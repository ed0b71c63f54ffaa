"""Writes of a run that the tracking server has not confirmed yet, in the required order."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fedsmu_ray.tracking.base import RoundCursor

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """Metrics of one round."""

    step: int  # the round; 0 for final metrics
    timestamp: int  # milliseconds since the epoch
    metrics: dict[str, float]


@dataclass
class Write:
    """One write."""

    what: str  # the kind of write; of a file, its name
    values: Any  # plain data
    is_file: bool = False  # files go to the artifact store, which may fail while the server works


@dataclass
class PendingRun:
    """What is still to be written of one run."""

    run_id: str  # a local id until the run has been created in the store
    may_exist: bool = False  # a creation was attempted: the run may be in the store already
    is_open: bool = False  # more writes will follow
    writes: list[Write] = field(default_factory=list)
    cursor: RoundCursor = field(default_factory=RoundCursor)  # rounds that the store has

    def add(self, what: str, values: object) -> None:
        """Append a write."""
        self.writes.append(Write(what, values))

    def add_point(self, point: Point) -> None:
        """Append metrics; consecutive rounds share a write."""
        if not self.writes or self.writes[-1].what != "metrics":
            self.add("metrics", [])
        self.writes[-1].values.append(point)

    def new_points(self, points: list[Point]) -> list[Point]:
        """Those of `points` that the store lacks: final metrics, and each new round once."""
        cursor, new = RoundCursor(self.cursor.last), []
        for point in points:
            if point.step == 0 or cursor.is_new(point.step):
                new.append(point)
                cursor.advance(point.step)
        return new

    def postpone_file(self) -> bool:
        """Move the first write, a file, behind all others; False if there are only files."""
        if all(write.is_file for write in self.writes):
            return False
        self.writes.append(self.writes.pop(0))
        return True

    def describe(self, write: Write) -> Mapping[str, Any]:
        """A write that could not be made, as a line of the file that is left instead."""
        values = self.new_points(write.values) if write.what == "metrics" else write.values
        return {"run": self.run_id, "what": write.what, "values": values}


def leave_file(folder: Path, uri: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write to a file what could not be written to the store at `uri`, one JSON object per line."""
    path = folder / f"not-in-mlflow-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        log.warning(
            "MLflow at %s did not accept everything, and what is missing there is lost: %s "
            "cannot be written (%s)",
            uri,
            path,
            error.strerror,
        )
        return
    log.warning(
        "MLflow at %s did not accept everything; what is missing there is in %s",
        uri,
        path.absolute(),
    )
