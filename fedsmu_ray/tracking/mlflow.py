"""Runs in MLflow. The only module that imports mlflow, and only when tracking is on."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsmu_ray.environment import set_mlflow_defaults
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking.base import SQLITE, NewRun, RunStatus, absolute_uri
from fedsmu_ray.tracking.pending import PendingRun, Point, Write, leave_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 2.0  # between writes of metrics, since one for every round would be slow
MAX_RETRY_INTERVAL_S = 60.0  # between attempts to reach a server that does not respond
FINAL_FLUSH_TIMEOUT_S = 60.0  # for an unreachable server when the last run has finished
ABORTED_FLUSH_TIMEOUT_S = 5.0  # the same after an interrupt or a failure
ROUNDS_PER_BATCH = 100  # MLflow accepts 1000 metrics in one batch
LOCAL_ID_PREFIX = "local-"  # of the ids of runs that the store has not created yet


class MLflowTracker:
    """Writes runs through one MlflowClient, metrics in batches.

    Every write is queued, run by run, and leaves the queue when the store has confirmed it. A
    server that does not respond never stops training: it costs one warning, and repeated attempts
    to reach it. What is queued is written when the server responds again, or else to a file at the
    end. A run that is started while the server is unreachable gets a local id, which its tag
    `fedsmu.id` keeps. A round that a run already has is ignored.
    """

    def __init__(self, uri: str, experiment: str, folder: str | Path = ".") -> None:
        set_mlflow_defaults()
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic", "urllib3"):  # they log migrations and broken connections
            logging.getLogger(name).setLevel(logging.ERROR)
        self.uri, self.folder = absolute_uri(uri), Path(folder)
        try:
            self.client = MlflowClient(self.uri)
            self.experiment_id = _experiment_id(self.client, experiment, self.uri)
        except Exception as error:  # each kind of store has its own exceptions
            raise ConfigError(
                [
                    f"tracking.uri = {uri!r}: cannot be opened ({_first_line(error)}); correct it, "
                    "or turn tracking off with tracking.uri=null"
                ]
            ) from None
        self.next_flush = 0.0  # time.monotonic() seconds
        self._runs: dict[str, PendingRun] = {}  # by the id that `start` has returned
        self._rejected: list[Mapping[str, Any]] = []  # writes that the store has rejected
        self._is_unreachable = False
        self._writers: dict[str, Callable[[PendingRun, Any], None]] = {
            "create": self._create,
            "params": self._write_params,
            "tags": self._write_tags,
            "resume": self._resume,
            "metrics": self._write_metrics,
            "end": self._end,
        }

    def start(self, run: NewRun) -> str:
        """Create a run and return its id.

        If the server is unreachable this is a local id, which `resume` accepts too.
        """
        local_id = LOCAL_ID_PREFIX + uuid.uuid4().hex
        pending = self._runs[local_id] = PendingRun(local_id, is_open=True)
        parent = {"mlflow.parentRunId": run.parent} if run.parent else {}
        pending.add("create", _creation(run.name, {**run.tags, **parent}))
        pending.add("params", dict(run.params))
        pending.writes += [Write(name, text, is_file=True) for name, text in run.files.items()]
        self.flush()
        self._runs[pending.run_id] = self._runs.pop(local_id)
        return pending.run_id

    def resume(self, run_id: str) -> None:
        """Continue an interrupted run. Rounds that it already has are not logged again."""
        is_known = run_id in self._runs
        pending = self._pending(run_id)
        pending.is_open = True
        if run_id.startswith(LOCAL_ID_PREFIX) and not is_known:  # another process has started it
            pending.may_exist = True
            pending.add("create", _creation(run_id, {}))
        pending.add("resume", None)
        self.flush()

    def log(self, run_id: str, metrics: Mapping[str, float], round: int) -> None:
        """Queue the metrics of a round, and write what has been queued long enough."""
        self._pending(run_id).add_point(Point(round, _now(), dict(metrics)))
        if time.monotonic() >= self.next_flush:
            self.flush()

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
        if metrics:
            final = {name: float(value) for name, value in metrics.items()}
            pending.add("metrics", [Point(0, _now(), final)])
        if tags:
            pending.add("tags", dict(tags))
        pending.add("end", {"status": status, "end_time": _now()})
        pending.is_open = False
        self.flush()
        if not any(run.is_open for run in self._runs.values()):
            self._final_flush(
                FINAL_FLUSH_TIMEOUT_S if status == "FINISHED" else ABORTED_FLUSH_TIMEOUT_S
            )

    def flush(self) -> None:
        """Write everything that is queued.

        If the server does not respond, a warning is logged once, and the next attempt is made after
        nine times as long as this one took: nine tenths of the time are left for training.
        """
        began = time.monotonic()
        if self._is_unreachable and began < self.next_flush:
            return
        failure = self._write_all()
        if failure and not self._is_unreachable:
            log.warning(
                "MLflow at %s does not respond (%s); the run continues, and everything is kept "
                "until it can be written",
                self.uri,
                _first_line(failure),
            )
        self._is_unreachable = failure is not None
        now = time.monotonic()
        pause = min(9 * (now - began), MAX_RETRY_INTERVAL_S) if failure else 0.0
        self.next_flush = now + max(FLUSH_INTERVAL_S, pause)

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
                self._write_run(run)
            except Exception as error:  # each kind of store has its own exceptions
                failure = error
                if not run.writes[0].is_file:  # only the artifact store may be unreachable
                    break
        return failure

    def _write_run(self, run: PendingRun) -> None:
        """Write what is queued of one run.

        Raises what the client raises if the server does not respond.
        """
        while run.writes:
            write = run.writes[0]
            try:
                if write.is_file:
                    self.client.log_text(run.run_id, write.values, write.what)
                else:
                    self._writers[write.what](run, write.values)
            except Exception as error:
                if write.is_file and run.postpone_file():
                    continue
                if not _is_rejection(error):
                    raise
                self._reject(run, write, error)
            del run.writes[0]

    def _reject(self, run: PendingRun, write: Write, error: Exception) -> None:
        if not self._rejected:
            log.warning(
                "MLflow at %s rejects the %s of run %s (%s)",
                self.uri,
                write.what,
                run.run_id,
                _first_line(error),
            )
        self._rejected.append(run.describe(write))

    # One kind of write each. All may be repeated: the store can have received a write whose
    # response was lost.

    def _create(self, run: PendingRun, values: dict[str, Any]) -> None:
        query = f"tags.`fedsmu.id` = '{run.run_id}'"
        found = self.client.search_runs([self.experiment_id], query) if run.may_exist else []
        run.may_exist = True
        if found:
            run.run_id = found[0].info.run_id
            return
        tags = {name: self._store_id(value) for name, value in values["tags"].items()}
        tags["fedsmu.id"] = run.run_id
        created = self.client.create_run(
            self.experiment_id, values["start_time"], tags, values["name"]
        )
        run.run_id = created.info.run_id

    def _write_params(self, run: PendingRun, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run.run_id, params=[Param(k, v) for k, v in values.items()])

    def _write_tags(self, run: PendingRun, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, self._store_id(str(value))) for name, value in values.items()]
        self.client.log_batch(run.run_id, tags=tags)

    def _resume(self, run: PendingRun, values: None) -> None:
        self.client.update_run(run.run_id, status="RUNNING")
        history = self.client.get_metric_history(run.run_id, "train/loss")
        run.cursor.advance(max((metric.step for metric in history), default=0))

    def _write_metrics(self, run: PendingRun, points: list[Point]) -> None:
        from mlflow.entities import Metric

        while points:
            new = run.new_points(points[:ROUNDS_PER_BATCH])
            metrics = [
                Metric(name, value, point.timestamp, point.step)
                for point in new
                for name, value in point.metrics.items()
            ]
            if metrics:
                self.client.log_batch(run.run_id, metrics=metrics)
                run.cursor.advance(new[-1].step)
            del points[:ROUNDS_PER_BATCH]

    def _end(self, run: PendingRun, values: dict[str, Any]) -> None:
        self.client.set_terminated(run.run_id, **values)

    # The final flush

    def _final_flush(self, timeout: float) -> None:
        """Retry for `timeout` seconds, then write what is left or was rejected to a file."""
        if self.has_pending_writes():
            log.warning(
                "MLflow at %s still does not respond; retrying for up to %d s",
                self.uri,
                timeout,
            )
        until = time.monotonic() + timeout
        while self.has_pending_writes() and time.monotonic() < until:
            time.sleep(max(0.0, min(FLUSH_INTERVAL_S, until - time.monotonic())))
            self.next_flush = 0.0
            self.flush()
        lines = [*self._rejected]
        for run in self._runs.values():
            lines += [run.describe(write) for write in run.writes]
            run.writes = []
        self._rejected = []
        if lines:
            leave_file(self.folder, self.uri, lines)


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of an experiment, which is created if it does not exist."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    # The kind makes the MLflow UI open on the runs of the experiment, not on its traces.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(name, artifact_location=_artifact_location(uri), tags=kind))


def _artifact_location(uri: str) -> str | None:
    """The folder mlruns beside a local database; None lets a server decide."""
    if uri.startswith(SQLITE + "/"):
        return (Path(uri.removeprefix(SQLITE)).parent / "mlruns").as_uri()
    return None


def _creation(name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "start_time": _now(), "tags": dict(tags)}


def _now() -> int:
    """Milliseconds since the epoch, as MLflow counts time."""
    return int(time.time() * 1000)


def _is_rejection(error: Exception) -> bool:
    """Whether the store has rejected a write for good, so that repeating it would not help."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    response: Any = error  # MLflow's method has no types
    code = int(response.get_http_status_code())
    return 400 <= code < 500 and code not in (401, 403, 408, 429)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
