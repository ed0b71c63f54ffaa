"""Runs in MLflow. Only tracking/mlflow*.py import mlflow, and only when tracking is on."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking.base import NewFile, NewModel, NewRun, RunStatus, View
from fedsmu_ray.tracking.mlflow_store import MAX_TIMEOUT_S, is_denied, is_slow
from fedsmu_ray.tracking.mlflow_system import SystemMetrics
from fedsmu_ray.tracking.mlflow_writer import MLflowWriter, creation
from fedsmu_ray.tracking.pending import PendingRun, Point, leave_file, now

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 2.0  # between writes of metrics, since one for every round would be slow
SLOW_FLUSH_S = 2.0  # a flush that takes longer makes the next one wait
MAX_RETRY_INTERVAL_S = 300.0  # between attempts to reach a server that does not respond
FINAL_FLUSH_TIMEOUT_S = 60.0  # for a server without progress when the last run has finished
ABORTED_FLUSH_TIMEOUT_S = 5.0  # the same after an interrupt or a failure
LOCAL_ID_PREFIX = "local-"  # of the ids of runs that the store has not created yet


class MLflowTracker:
    """Writes runs through one MlflowClient, metrics in batches.

    Every write is queued, run by run, and leaves the queue when the store has confirmed it. A
    server that does not respond never stops training: it costs one warning, and repeated attempts
    to reach it. What is queued is written when the server responds again, or else to a file at the
    end. What the store refuses for good goes to that file as well. A run that is started while the
    server is unreachable gets a local id, which its tag `fedsmu.id` keeps.
    """

    def __init__(self, uri: str, experiment: str, folder: str | Path = ".") -> None:
        self.writer = MLflowWriter(uri, experiment, self._store_id)
        self.writer.end_stale_runs()
        self.uri, self.folder = self.writer.uri, Path(folder)
        self.missing: str | None = None
        self.next_flush = 0.0  # time.monotonic() seconds
        self._system = SystemMetrics(self.writer.store_uri)
        self._runs: dict[str, PendingRun] = {}  # by their ids, local ones too
        self._failure: Exception | None = None  # of the last attempt to write

    def start(self, run: NewRun) -> str:
        """Create a run and return its id.

        If the server is unreachable this is a local id, which `resume` accepts too. Raises
        ConfigError if a run without a parent is refused.
        """
        pending = PendingRun(LOCAL_ID_PREFIX + uuid.uuid4().hex)
        pending.writes = creation(run)
        return self._open(pending, run)

    def resume(self, run_id: str, run: NewRun) -> str:
        """Continue an interrupted run, or create `run` if the store does not have it.

        Returns its id. What it already has is not logged again. Raises ConfigError like `start`.
        """
        if not run_id:  # it began without tracking
            return self.start(run)
        pending = self._pending(run_id)
        pending.refusal = None
        pending.is_open = False
        pending.add("resume", asdict(run))
        return self._open(pending, run)

    def _open(self, pending: PendingRun, run: NewRun) -> str:
        begun_as = pending.run_id
        self._runs[begun_as] = pending
        pending.is_starting = True
        self.flush()
        refusal = pending.refusal
        if refusal is None and self._failure and is_denied(self._failure):
            refusal = self.writer.describe(self._failure)
        if refusal and run.parent is None:  # nothing has been trained yet
            del self._runs[begun_as]
            raise ConfigError(
                [
                    f"tracking.uri = '{self.uri}': MLflow refuses the run ({refusal}); correct it "
                    "or its credentials, or turn tracking off with tracking.uri=null"
                ]
            )
        if pending.refusal:
            self.writer.tell_refusal(pending)
        pending.is_starting, pending.is_open = False, True
        self._runs[pending.run_id] = pending
        if run.system_metrics and not pending.writes and not pending.refusal:
            self._system.start(pending.run_id)
        return pending.run_id

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Queue the metrics of a round, and write what has been queued long enough."""
        self._pending(run_id).add_point(Point(round, now(), dict(metrics)))
        if time.monotonic() >= self.next_flush:
            self.flush()

    def log_model(self, run_id: str, model: NewModel) -> None:
        """Queue the model of a run; see `Tracker.log_model`."""
        self._pending(run_id).add_model(model)

    def log_file(self, run_id: str, file: NewFile) -> None:
        """Queue a file of a run."""
        self._pending(run_id).add_file(file)

    def finish(
        self,
        run_id: str,
        status: RunStatus = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run with its final metrics and tags.

        After the last open run, retries an unreachable server for some time, then leaves a file.
        """
        pending = self._pending(run_id)
        self._system.finish(run_id)
        if metrics:
            final = {name: float(v) for name, v in metrics.items() if v is not None}
            pending.add("metrics", [Point(0, now(), final)])
        if tags:
            pending.add("tags", dict(tags))
        pending.add("end", {"status": status, "end_time": now()})
        is_last = not any(run.is_open for run in self._runs.values() if run is not pending)
        if is_last:
            self._end_interrupted()
        self.flush()  # of an open run it is told that it is refused
        pending.is_open = False
        if is_last:
            self._final_flush(
                FINAL_FLUSH_TIMEOUT_S if status == "FINISHED" else ABORTED_FLUSH_TIMEOUT_S
            )

    def _end_interrupted(self) -> None:
        """End the runs whose start was interrupted: nobody has their ids."""
        for run in self._runs.values():
            if run.is_starting:
                run.is_starting = False
                run.add("end", {"status": "KILLED", "end_time": now()})

    def publish(self, view: View) -> str | None:
        """Save a view of the UI; None if that fails, which only makes comparing less convenient."""
        if view.parent.startswith(LOCAL_ID_PREFIX) and self._store_id(view.parent) == view.parent:
            return None  # its run has not been created yet
        try:
            return self.writer.publish(view)
        except Exception as error:  # each kind of store has its own exceptions
            log.debug("no view of the sweep in MLflow: %s", self.writer.describe(error))
            return None

    def flush(self) -> None:
        """Write everything that is queued.

        If the server does not respond, a warning is logged once. After a slow or failed attempt,
        the next one is made after nine times as long as this one took: nine tenths of the time are
        left for training.
        """
        began = time.monotonic()
        if self._failure and began < self.next_flush:
            return
        had_failed, self._failure = self._failure is not None, self._write_all()
        if self._failure and not had_failed:
            log.warning(
                "MLflow at %s %s (%s); the run continues, and everything is kept until it can be "
                "written",
                self.uri,
                "denies access" if is_denied(self._failure) else "does not respond",
                self.writer.describe(self._failure),
            )
        if self._failure and is_slow(self._failure):
            environment.double_mlflow_timeout(MAX_TIMEOUT_S)
        ended = time.monotonic()
        is_slow_flush = self._failure or ended - began > SLOW_FLUSH_S
        pause = min(9 * (ended - began), MAX_RETRY_INTERVAL_S) if is_slow_flush else 0.0
        self.next_flush = ended + max(FLUSH_INTERVAL_S, pause)

    def has_pending_writes(self) -> bool:
        """Whether anything is queued."""
        return any(run.writes for run in self._runs.values())

    def _pending(self, run_id: str) -> PendingRun:
        return self._runs.setdefault(run_id, PendingRun(run_id))

    def _store_id(self, run_id: str) -> str:
        """The id of a run in the store, if it has been created; anything else as it is."""
        return self._runs[run_id].run_id if run_id in self._runs else run_id

    # Writing what is queued

    def _write_all(self) -> Exception | None:
        """Write what is queued, run by run; returns what the client raised if that failed."""
        failure = None
        for run in list(self._runs.values()):
            try:
                self.writer.write(run)
            except Exception as error:  # each kind of store has its own exceptions
                failure = error
                if not run.writes[0].is_file:  # only the artifact store may be unreachable
                    break
        return failure

    # The final flush

    def _final_flush(self, timeout: float) -> None:
        """Retry until `timeout` seconds have passed without progress, then leave a file."""
        if self.has_pending_writes():
            log.warning(
                "MLflow at %s still does not respond; retrying for up to %d s",
                self.uri,
                timeout,
            )
        until = time.monotonic() + timeout
        while self.has_pending_writes() and time.monotonic() < until:
            confirmed = self.writer.confirmed
            time.sleep(max(0.0, min(FLUSH_INTERVAL_S, until - time.monotonic())))
            self.next_flush = 0.0
            self.flush()
            if self.writer.confirmed > confirmed:
                until = time.monotonic() + timeout
            if self._failure and is_denied(self._failure):
                break
        lines = [*self.writer.refused]
        for run in self._runs.values():
            lines += [run.describe(write) for write in run.writes]
            run.writes = []
        self.writer.refused = []
        if lines:
            self.missing = leave_file(self.folder, self.uri, lines)
