"""The protocol of a tracker, and what it records.

Trackers know neither configurations nor federations: runs reach them as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class NewRun:
    """A run to be created."""

    name: str
    params: Mapping[str, str]  # flat parameters
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # artifacts: file name -> text
    parent: str | None = None  # run id of the sweep that a trial belongs to


@dataclass
class RoundCursor:
    """The last round that has been handled, to ignore rounds that are repeated.

    An experiment that restarts from a checkpoint repeats the rounds after it. Whoever receives its
    rounds (a tracker, the reader of the rounds) handles only those that are new to its cursor.
    """

    last: int = 0  # this round and all before it have been handled; rounds count from 1

    def is_new(self, round: int) -> bool:
        """Whether a round comes after all that have been handled."""
        return round > self.last

    def advance(self, round: int) -> None:
        """Note that a round and all before it have been handled. The cursor never moves back."""
        self.last = max(self.last, round)


class Tracker(Protocol):
    """Where runs are recorded."""

    @property
    def uri(self) -> str | None:
        """Where the runs are, as a user would open it; None if they are not tracked."""
        ...

    def start(self, run: NewRun) -> str:
        """Create a run and return its id."""
        ...

    def resume(self, run_id: str) -> None:
        """Continue an interrupted run. Rounds that it already has are not logged again."""
        ...

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Log the metrics of a round (from 1). A round that the run already has is ignored."""
        ...

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run with its final metrics and tags."""
        ...


class NoTracker:
    """Tracking turned off (tracking.uri=null)."""

    uri = None

    def start(self, run: NewRun) -> str:
        """Nothing is created; the id is empty."""
        return ""

    def resume(self, run_id: str) -> None:
        """Nothing to continue."""

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Nothing is logged."""

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing to end."""


def absolute_uri(uri: str) -> str:
    """The URI with a relative SQLite path made absolute, so that it is valid in any folder."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/") and ":memory:" not in uri:
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    return uri
