"""What the trackers of `tracking.also` share: a folder for each run, and each round once."""

from __future__ import annotations

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from fedsmu_ray.tracking.base import NewFile, NewModel, NewRun, RoundCursor, RunStatus, View

ID_DIGITS = 8  # of the id of a run in the name of its folder
_NOT_ALLOWED = re.compile(r"[^\w.,=+()@-]")


class RunWriter(ABC):
    """Writes one run. Whatever it raises ends its tracker, with a warning."""

    last_round = 0  # the last round that it has from before it was resumed

    @abstractmethod
    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Write the metrics of a round that the run does not have yet."""

    @abstractmethod
    def finish(
        self, status: RunStatus, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Write the end of the run: its final metrics, and tags that it has besides its own."""

    def log_file(self, file: NewFile) -> None:  # noqa: B027
        """Keep a file with the run, if that has a place for files."""


class FolderTracker:
    """A tracker whose runs are below a folder on this machine.

    A run has the id that `NewRun.id` gives it, which is the one it has in MLflow, and a folder
    named after it: a trial's is in that of its sweep.
    """

    missing = None

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, str(folder)
        self._writers: dict[str, RunWriter] = {}  # by the ids of the runs that are open
        self._cursors: dict[str, RoundCursor] = {}
        self._folders: dict[str, Path] = {}

    def open(self, run_id: str, run: NewRun, folder: Path) -> RunWriter:
        """Begin a run, or continue the one that the folder has."""
        raise NotImplementedError

    def start(self, run: NewRun) -> str:
        """Create a run and return its id."""
        return self.resume(run.id or uuid.uuid4().hex, run)

    def resume(self, run_id: str, run: NewRun) -> str:
        """Continue a run, or create it if the folder does not have it; returns its id."""
        if run_id not in self._writers:
            parent = self._folders.get(run.parent or "", self.folder)
            self._folders[run_id] = folder = parent / folder_name(run.name, run_id)
            self._writers[run_id] = writer = self.open(run_id, run, folder)
            self._cursors[run_id] = RoundCursor(writer.last_round)
        return run_id

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Log the metrics of a round. A round that the run already has is ignored."""
        cursor = self._cursors[run_id]
        if cursor.is_new(round):
            self._writers[run_id].log(metrics, round)
            cursor.advance(round)

    def log_model(self, run_id: str, model: NewModel) -> None:
        """Models are in MLflow and in the folder of the run or sweep, not here."""

    def log_file(self, run_id: str, file: NewFile) -> None:
        """Log a file with a run that has not ended."""
        if writer := self._writers.get(run_id):
            writer.log_file(file)

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run with its final metrics and tags, if it was begun or continued here."""
        finals = {name: float(v) for name, v in (metrics or {}).items() if v is not None}
        if writer := self._writers.pop(run_id, None):
            writer.finish(status, finals, tags or {})

    def publish(self, view: View) -> str | None:
        """There is no view."""
        return None


def folder_name(name: str, run_id: str) -> str:
    """The name of the folder of a run: its own, and the beginning of its id."""
    readable = _NOT_ALLOWED.sub("_", name)[:100].strip("_.") or "run"
    return f"{readable}-{run_id.removeprefix('local-')[:ID_DIGITS]}"
