"""Runs in MLflow. The only module that imports mlflow, and only when tracking is on."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray.config.schema import TrackingConfig
from fedsmu_ray.config.validation import Config
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.rounds import Record

log = logging.getLogger(__name__)

METRICS = (
    "test/accuracy",
    "test/loss",
    "train/loss",
    "comm/uplink_bytes",
    "comm/downlink_bytes",
    "time/round_s",
    "mu/upload",
    "clients/dropped",
)

FLUSH_S = 2.0  # metrics wait at most about this long, so that a round does not pay for a write each
LONGEST_WAIT_S = 60.0  # between attempts to reach a store that is away
PATIENCE_S, HURRY_S = (
    60.0,
    5.0,
)  # for a store that is away at the end of everything; after an interrupt or a failure
BATCH = 100  # rounds in one write, which may hold 1000 metrics
OWN = "local-"  # how names begin that runs are given before the store knows them

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that is away must not stop training for minutes; what failed is tried again here.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def metrics(record: Record) -> dict[str, float]:
    """A record as tracked metrics: bytes are cumulative over rounds and clients, accuracy is in [0, 1]."""
    values = (
        record.test_accuracy,
        record.test_loss,
        record.train_loss,
        record.uplink_bytes,
        record.downlink_bytes,
        record.seconds,
        record.uniformity,
        record.dropped or None,
    )
    return {name: float(value) for name, value in zip(METRICS, values) if value is not None}


def open_tracker(config: TrackingConfig, folder: str | Path = ".") -> Tracker | NoTracker:
    """The tracker of the configuration; creates store and experiment if need be.

    folder: where a file is left with what the store could not be given. Raises ConfigError when the store cannot be
    opened: better before training than after it.
    """
    return Tracker(config, folder) if config.uri else NoTracker()


class NoTracker:
    """Tracking turned off (tracking.uri=null)."""

    uri = None

    def start(self, name, config, tags=None, parent=None):
        return ""

    def resume(self, run_id):
        return 0

    def log(self, run_id, values, step):
        pass

    def finish(self, run_id, status="FINISHED", values=None, tags=None):
        pass


class Tracker:
    """Writes runs through one MlflowClient, metrics in batches.

    Everything to be written waits in the order it came, run by run, and leaves the queue when the store has it. A store
    that does not answer costs a warning and the time of an attempt now and then, never the run: it is given everything
    once it answers, or at the end a file is. A run begun meanwhile has a name of our own, which the tag `fedsmu.id` keeps.
    """

    def __init__(self, config: TrackingConfig, folder: str | Path = ".") -> None:
        from mlflow import MlflowClient

        for name in (
            "mlflow",
            "alembic",
            "urllib3",
        ):  # table creation, migration and broken connections talk a lot
            logging.getLogger(name).setLevel(logging.ERROR)

        self.uri, self.folder = absolute(config.uri), Path(folder)
        try:
            self.client = MlflowClient(self.uri)
            found = self.client.get_experiment_by_name(config.experiment)
            self.experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(
                    config.experiment,
                    artifact_location=_artifacts(self.uri),
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )  # the UI opens on runs, not on traces
        except Exception as error:  # each kind of store has its own exceptions
            raise ConfigError(
                [
                    f"tracking.uri = {config.uri!r}: cannot open it ({_brief(error)}); correct it, or turn tracking "
                    "off with tracking.uri=null"
                ]
            ) from None
        self.waiting: dict[str, list[tuple[str, Any]]] = {}  # run -> what is to be written of it
        self.ids: dict[str, str] = {}  # our name of a run -> its id in the store
        self.last: dict[str, int] = {}  # resumed run -> the last round the store had of it
        self.open: set[str] = set()  # runs that will be written to again
        self.refused: list[dict[str, Any]] = []  # what the store answered and would not take
        self.away, self.due = False, 0.0

    def start(
        self,
        name: str,
        config: Config,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> str:
        """Create a run with the configuration as flat parameters and as the artifact config.yaml; returns its id."""
        own = OWN + uuid.uuid4().hex
        tags = {
            "mlflow.source.name": "fedsmu_ray",
            "fedsmu.method": config.method_name,
            **(tags or {}),
        }
        if parent:
            tags["mlflow.parentRunId"] = parent
        params = {key: str(value) for key, value in config.flat().items() if key != "name"}
        self.waiting[own] = [
            _creation(name, tags),
            ("params", params),
            ("config.yaml", config.to_yaml()),
        ]
        self.flush()
        run_id = self.ids.get(own, own)
        self.open.add(run_id)
        return run_id

    def resume(self, run_id: str) -> int:
        """Take up an interrupted run; returns the last round it holds, so that no point is written twice. While the store
        is away that is 0, and what it turns out to hold is not written again."""
        self.open.add(run_id)
        waiting = self._of(run_id)
        if run_id.startswith(OWN) and run_id not in self.ids and not waiting:  # of another process
            waiting.append(_creation(run_id, {}))
        waiting.append(("resume", None))
        self.flush()
        return self.last.get(self.ids.get(run_id, run_id), 0)

    def log(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Buffer metrics of a round, and write what has waited long enough."""
        waiting = self._of(run_id)
        if not waiting or waiting[-1][0] != "metrics":
            waiting.append(("metrics", []))
        waiting[-1][1].append((step, _now(), dict(values)))
        if time.monotonic() >= self.due:
            self.flush()

    def finish(
        self,
        run_id: str,
        status: str = "FINISHED",
        values: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write what is left, the final values and tags, and end the run. When it was the last one, waits a while for a
        store that is away, and then leaves a file."""
        waiting = self._of(run_id)
        if values:
            waiting.append(("metrics", [(0, _now(), {k: float(v) for k, v in values.items()})]))
        if tags:
            waiting.append(("tags", dict(tags)))
        waiting.append(("end", {"status": status, "end_time": _now()}))
        self.open.discard(run_id)
        self.flush()
        if not self.open:
            self._settle(PATIENCE_S if status == "FINISHED" else HURRY_S)

    def flush(self) -> None:
        """Write everything that waits. A store that does not answer is warned of once and left alone for a while: for
        nine times as long as it took not to answer, so that training has the other nine tenths."""
        if self.away and time.monotonic() < self.due:
            return
        began, failure = time.monotonic(), None
        for run_id in list(self.waiting):
            try:
                self._deliver(run_id)
            except Exception as error:
                failure = error
                if (
                    self._of(run_id)[0][0] != "config.yaml"
                ):  # files have a store of their own, which others need not
                    break
        if failure and not self.away:
            log.warning(
                "MLflow at %s does not answer (%s); the run goes on, and what it should get is kept until it does",
                self.uri,
                _brief(failure),
            )
        self.away = failure is not None
        now = time.monotonic()
        self.due = now + (
            max(FLUSH_S, min(9 * (now - began), LONGEST_WAIT_S)) if failure else FLUSH_S
        )

    def _of(self, run_id: str) -> list[tuple[str, Any]]:
        return self.waiting.setdefault(self.ids.get(run_id, run_id), [])

    def _deliver(self, run_id: str) -> None:
        """Write what waits of one run; raises whatever the client does when the store is away."""
        waiting = self.waiting[run_id]
        while waiting:
            what, values = waiting[0]
            try:
                run_id = self._write(run_id, what, values)
            except Exception as error:
                if what == "config.yaml" and len(waiting) > 1:
                    waiting.append(waiting.pop(0))
                    continue
                if not _is_refusal(error):
                    raise
                if not self.refused:
                    log.warning(
                        "MLflow at %s refuses the %s of run %s (%s)",
                        self.uri,
                        what,
                        run_id,
                        _brief(error),
                    )
                self.refused.append({"run": run_id, "what": what, "values": values})
            waiting.pop(0)
        del self.waiting[run_id]

    def _write(self, run_id: str, what: str, values: Any) -> str:
        """One thing of a run, which may have been written before without our hearing of it; returns the run's id."""
        from mlflow.entities import Metric, Param, RunTag

        if what == "create":
            self.ids[run_id] = created = self._create(run_id, values)
            self.waiting[created] = self.waiting.pop(run_id)
            return created
        if what == "params":
            self.client.log_batch(run_id, params=[Param(k, v) for k, v in values.items()])
        elif what == "config.yaml":
            self.client.log_text(run_id, values, what)
        elif what == "tags":
            self.client.log_batch(
                run_id, tags=[RunTag(k, str(self.ids.get(v, v))) for k, v in values.items()]
            )
        elif what == "resume":
            self.client.update_run(run_id, status="RUNNING")
            self.last[run_id] = max(
                (m.step for m in self.client.get_metric_history(run_id, "train/loss")), default=0
            )
        elif what == "end":
            self.client.set_terminated(run_id, **values)
        while what == "metrics" and values:
            batch = [
                Metric(k, v, at, step)
                for step, at, of in values[:BATCH]
                for k, v in of.items()
                if not 0 < step <= self.last.get(run_id, 0)
            ]
            self.client.log_batch(run_id, metrics=batch)
            del values[:BATCH]
        return run_id

    def _create(self, own: str, values: dict[str, Any]) -> str:
        found = (
            self.client.search_runs([self.experiment], f"tags.`fedsmu.id` = '{own}'")
            if values["tried"]
            else []
        )
        values["tried"] = True
        if found:
            return found[0].info.run_id
        tags = {k: self.ids.get(v, v) for k, v in values["tags"].items()}
        run = self.client.create_run(
            self.experiment, values["start_time"], {**tags, "fedsmu.id": own}, values["name"]
        )
        return run.info.run_id

    def _settle(self, patience: float) -> None:
        """Try for `patience` seconds to write what waits, then put it into a file."""
        if self.waiting:
            log.warning(
                "MLflow at %s is still away; trying for up to %d s more to give it what is left",
                self.uri,
                patience,
            )
        until = time.monotonic() + patience
        while self.waiting and time.monotonic() < until:
            time.sleep(max(0.0, min(FLUSH_S, until - time.monotonic())))
            self.due = 0.0
            self.flush()
        left = self.refused + [
            {"run": run_id, "what": what, "values": values}
            for run_id, waiting in self.waiting.items()
            for what, values in waiting
        ]
        self.waiting, self.refused = {}, []
        if not left:
            return
        path = self.folder / f"not-in-mlflow-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in left), encoding="utf-8")
            log.warning(
                "MLflow at %s did not take everything; what it lacks is in %s",
                self.uri,
                path.absolute(),
            )
        except OSError as error:
            log.warning(
                "MLflow at %s did not take everything, and what it lacks is lost: %s cannot be written (%s)",
                self.uri,
                path,
                error.strerror,
            )


def _creation(name: str, tags: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    return "create", {"name": name, "start_time": _now(), "tags": dict(tags), "tried": not tags}


def _now() -> int:
    return int(time.time() * 1000)


def _is_refusal(error: Exception) -> bool:
    """Whether the store answered that it will not have this, now or later."""
    from mlflow.exceptions import MlflowException

    code = error.get_http_status_code() if isinstance(error, MlflowException) else 500
    return 400 <= code < 500 and code not in (401, 403, 408, 429)


def absolute(uri: str) -> str:
    """The URI with a relative SQLite path made absolute, so that it can be opened from anywhere."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/") and ":memory:" not in uri:
        return f"{prefix}{Path(uri.removeprefix(prefix)).absolute()}"
    return uri


def _artifacts(uri: str) -> str | None:
    """Where a local store's artifacts go: beside the database, whatever the working directory; None lets a server decide."""
    if uri.startswith("sqlite:////"):
        return (Path(uri.removeprefix("sqlite:///")).parent / "mlruns").as_uri()
    return None


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
