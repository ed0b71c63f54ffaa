"""Several trackers at once: MLflow, or none, and those of `tracking.also`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from fedsmu_ray.tracking.background import Background
from fedsmu_ray.tracking.base import NewFile, NewModel, NewRun, RunStatus, Tracker, View

FINAL_WAIT_S = 60.0  # for the others when the last run has finished
ABORTED_WAIT_S = 5.0  # the same after an interrupt or a failure


class SeveralTrackers:
    """Passes everything on to a first tracker and to others.

    The first one is what counts: its ids are those of the runs, which the others use too, and only
    what it raises ends a run. The others work in the background. If the first one has to begin a
    run anew that is resumed, they do so as well, under its new id.
    """

    def __init__(self, first: Tracker, others: Mapping[str, Tracker]) -> None:
        """others: by their names in `tracking.also`."""
        self.first = first
        self.others = [Background(name, tracker) for name, tracker in others.items()]
        self._open: set[str] = set()  # ids of runs

    @property
    def uri(self) -> str | None:
        """Where the first tracker has the runs; None if it has none."""
        return self.first.uri

    @property
    def missing(self) -> str | None:
        """What the store of the first tracker lacks, see `Tracker.missing`."""
        return self.first.missing

    def start(self, run: NewRun) -> str:
        """Create a run and return its id; without a first tracker it is a new one."""
        run_id = self.first.start(run) or uuid.uuid4().hex
        self._open.add(run_id)
        for other in self.others:
            other.call(other.tracker.start, replace(run, id=run_id))
        return run_id

    def resume(self, run_id: str, run: NewRun) -> str:
        """Continue an interrupted run and return its id."""
        if not run_id:  # it began without tracking
            return self.start(run)
        now = self.first.resume(run_id, run)
        self._open.add(now)
        for other in self.others:
            other.call(other.tracker.resume, now, run)
        return now

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Log the metrics of a round. A round that the run already has is ignored."""
        for other in self.others:
            other.call(other.tracker.log, run_id, dict(metrics), round)
        self.first.log(run_id, metrics, round)

    def log_model(self, run_id: str, model: NewModel) -> None:
        """Log the model of a run."""
        for other in self.others:
            other.call(other.tracker.log_model, run_id, model)
        self.first.log_model(run_id, model)

    def log_file(self, run_id: str, file: NewFile) -> None:
        """Log a file with a run that has not ended."""
        for other in self.others:
            other.call(other.tracker.log_file, run_id, file)
        self.first.log_file(run_id, file)

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run. After the last open one, waits for the others for some time."""
        for other in self.others:
            other.call(other.tracker.finish, run_id, status, metrics, tags)
        self.first.finish(run_id, status, metrics, tags)
        self._open.discard(run_id)
        if not self._open:
            for other in self.others:
                other.wait(FINAL_WAIT_S if status == "FINISHED" else ABORTED_WAIT_S)

    def publish(self, view: View) -> str | None:
        """Save a view in the UI of the first tracker."""
        return self.first.publish(view)
