"""The protocol of a tracker, and what it records.

Trackers know neither configurations nor federations: runs reach them as plain data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote

from fedsmu_ray.environment import results_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

# Tag of a run: its description in Markdown. A link to another run is made by `run_link`.
DESCRIPTION = "mlflow.note.content"
RUN_LINK = re.compile(r"\(run:([\w-]+)\)")
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
_SQLITE = re.compile(
    r"sqlite(?:\+\w+)?:///(?P<path>[^?]+)(?P<options>\?.*)?", re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True)
class NewRun:
    """A run to be created."""

    name: str
    params: Mapping[str, str]  # flat parameters
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # artifacts: file name -> text
    parent: str | None = None  # run id of the sweep that a trial belongs to
    # The data that it is trained on: name, digest, source and profile (JSON).
    dataset: Mapping[str, str] | None = None
    system_metrics: bool = False  # whether the use of this host is tracked, too
    # Measured in every evaluation: further ones of the task (f1_macro) and over clients, in full.
    metrics: Sequence[str] = ()
    id: str | None = None  # that another tracker has given it; None: it gets a new one


@dataclass(frozen=True)
class NewModel:
    """A trained model to be logged with the run that has trained it."""

    name: str
    module: nn.Module = field(repr=False)
    example: NDArray[np.generic] = field(repr=False)  # an input of one sample, [1, ...]
    classes: int  # for an input [B, ...] the module returns float32 [B, classes]
    file: bytes = field(repr=False)  # the content of its model file
    sha256: str
    dataset: str  # its name
    data_digest: str
    metrics: Mapping[str, float]  # final ones of its run
    tags: Mapping[str, str] = field(default_factory=dict)
    register: str | None = None  # the registered model of which it becomes a version

    def plain(self) -> dict[str, object]:
        """What identifies it, as plain data."""
        return {"name": self.name, "model_sha256": self.sha256, "register": self.register}


@dataclass(frozen=True)
class NewFile:
    """A file to be logged with a run, as an artifact."""

    name: str
    text: str = field(repr=False)
    path: str  # where it is besides

    def plain(self) -> dict[str, object]:
        """What identifies it, as plain data."""
        return {"name": self.name, "path": self.path}


@dataclass(frozen=True)
class View:
    """How the trials of a sweep are to be compared in the UI of a tracker."""

    name: str
    parent: str  # run id of the sweep
    params: tuple[str, ...]  # the swept keys
    group: str  # tag of the runs that are one setting
    accuracy: str = "test/accuracy"  # the metric that the charts show


@dataclass(frozen=True)
class TrackedRun:
    """A run that a tracker has, as it is read again."""

    run_id: str
    name: str
    status: str  # in small letters
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # the last values
    history: Mapping[int, Mapping[str, float]]  # metrics by evaluated round
    config: str = field(default="", repr=False)  # the file that was logged with it, if it was read


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
        """Where the runs are, without secrets; None if they are not tracked."""
        ...

    @property
    def missing(self) -> str | None:
        """The file with what the store lacks after the last run has ended; None if it has all."""
        ...

    def start(self, run: NewRun) -> str:
        """Create a run and return its id, which is `run.id` where that is given (not by MLflow).

        Raises ConfigError if a run without a parent is refused: nothing has been trained yet.
        """
        ...

    def resume(self, run_id: str, run: NewRun) -> str:
        """Continue an interrupted run and return its id. What it already has is not logged again.

        If the store does not have it (it was deleted, or is in another store or experiment), `run`
        is created instead, and has another id. Raises ConfigError like `start`.
        """
        ...

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Log the metrics of a round (from 1). A round that the run already has is ignored."""
        ...

    def log_model(self, run_id: str, model: NewModel) -> None:
        """Log the model of a run, before or after the run has ended; once, however often called.

        It is written by the next `finish`. That it cannot be is a warning and loses nothing else.
        """
        ...

    def log_file(self, run_id: str, file: NewFile) -> None:
        """Log a file with a run that has not ended, in place of one of this name.

        It is written by the next `finish`.
        """
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

    def publish(self, view: View) -> str | None:
        """Save a view in the UI; returns the part of its URL after the server. None: there is none.

        It may be saved again.
        """
        ...


class NoTracker:
    """Tracking turned off (tracking.uri=null)."""

    uri = None
    missing = None

    def start(self, run: NewRun) -> str:
        """Nothing is created; the id is empty."""
        return ""

    def resume(self, run_id: str, run: NewRun) -> str:
        """Nothing to continue; the id stays."""
        return run_id

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Nothing is logged."""

    def log_model(self, run_id: str, model: NewModel) -> None:
        """Nothing is logged."""

    def log_file(self, run_id: str, file: NewFile) -> None:
        """Nothing is logged."""

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing to end."""

    def publish(self, view: View) -> str | None:
        """There is no UI."""
        return None


def run_link(text: str, run_id: str) -> str:
    """A link to a run in a description; a tracker that knows its address puts that there."""
    return f"[{text}](run:{run_id})" if run_id else text


def database_file(uri: str) -> Path | None:
    """The absolute path of the SQLite database of a URI (see `results_path`); None for others."""
    match = _SQLITE.fullmatch(uri)
    if match is None or ":memory:" in match["path"]:
        return None
    return results_path(unquote(match["path"])).absolute()


def absolute_uri(uri: str) -> str:
    """The URI with the path of a SQLite database made absolute, so that it is valid anywhere."""
    path, match = database_file(uri), _SQLITE.fullmatch(uri)
    return database_uri(path) + (match["options"] or "") if path and match else uri


def database_uri(path: Path) -> str:
    """The URI of a SQLite database at an absolute path."""
    quoted = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folder of what it reads after `sqlite:///`, which it does not unquote.
    scheme = "sqlite" if quoted == str(path) else "sqlite+pysqlite"
    return f"{scheme}:///{quoted}"
