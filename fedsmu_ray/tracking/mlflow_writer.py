"""Writes of runs to an MLflow store: one kind of write each, and what becomes of refused ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsmu_ray.files.secrets import cut
from fedsmu_ray.processes import identity
from fedsmu_ray.tracking.base import (
    DESCRIPTION,
    RUN_LINK,
    NewFile,
    NewModel,
    NewRun,
    RoundCursor,
    View,
)
from fedsmu_ray.tracking.metrics import over_bytes
from fedsmu_ray.tracking.mlflow_models import SavingError, write_model
from fedsmu_ray.tracking.mlflow_names import (
    DIGEST,
    MAX_NAME,
    MAX_PARAM,
    MAX_TAG,
    accepted,
    accepted_name,
    encodable,
    shortened,
)
from fedsmu_ray.tracking.mlflow_store import first_line, is_refusal, is_too_large, open_store
from fedsmu_ray.tracking.mlflow_view import SWEEP_VIEW, key_of, link, view_tags
from fedsmu_ray.tracking.pending import PendingRun, Point, Write, now

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

PROCESS = "fedsmu.process"  # tag: who writes a run
ROUNDS_PER_BATCH = 100  # MLflow accepts 1000 metrics in one batch


class MLflowWriter:
    """Makes the queued writes of runs through one MlflowClient.

    All writes may be repeated: the store can have received one whose response was lost.
    """

    def __init__(self, uri: str, experiment: str, store_id: Callable[[str], str]) -> None:
        """Open the store; store_id: from the id of a run to its id in the store, if it has one."""
        self.client, self.experiment_id, self.store_uri = open_store(uri, experiment)
        self.uri, self.store_id = cut(self.store_uri), store_id
        self.refused: list[Mapping[str, Any]] = []  # writes that the store has refused
        self.confirmed = 0  # requests that the store has confirmed
        self._told: set[str] = set()  # kinds of refused writes of which a warning was logged
        self._writers: dict[str, Callable[[PendingRun, Any], None]] = {
            "create": self._create,
            "params": self._write_params,
            "tags": self._write_tags,
            "resume": self._resume,
            "metrics": self._write_metrics,
            "dataset": self._write_dataset,
            "end": self._end,
        }

    def end_stale_runs(self) -> None:
        """Mark the runs of this experiment as KILLED whose process on this host is gone.

        It was killed, or its host was rebooted, before it could end them.
        """
        here = identity.this_process()
        if here is None:
            return
        query = f"attributes.status = 'RUNNING' and tags.`{PROCESS}` LIKE '%\"{here.host}\"%'"
        try:
            for run in self.client.search_runs([self.experiment_id], query):
                writer = identity.parse(run.data.tags[PROCESS])
                if writer and identity.is_gone(writer):
                    self.client.set_terminated(run.info.run_id, "KILLED")
                    log.info("run %s: its process %d is gone", run.info.run_id, writer.pid)
        except Exception as error:  # each kind of store has its own exceptions
            log.warning(
                "MLflow at %s: runs of processes that were killed may stay RUNNING (%s)",
                self.uri,
                self.describe(error),
            )

    def publish(self, view: View) -> str:
        """Save the views of a sweep in the store; returns the link to the first one.

        It lacks the server.

        Raises what the client raises.
        """
        parent = self.store_id(view.parent)
        for tag, value in view_tags(view, parent).items():
            self.client.set_experiment_tag(self.experiment_id, tag, value)
        return link(self.experiment_id, SWEEP_VIEW + key_of(parent))

    def describe(self, error: Exception) -> str:
        """An error of the client in one line, without secrets."""
        return first_line(error, self.store_uri)

    def write(self, run: PendingRun) -> None:
        """Write what is queued of one run.

        Raises what the client raises if the server does not respond.
        """
        while run.writes:
            write = run.writes[0]
            try:
                if run.refusal:
                    self.refused.append(run.describe(write))
                elif isinstance(write.values, NewModel):
                    self._write_model(run, write.values)
                elif write.is_file:
                    file = write.values
                    text = file.text if isinstance(file, NewFile) else file
                    self.client.log_text(run.run_id, text, write.what)
                else:
                    self._writers[write.what](run, write.values)
                self.confirmed += 1
            except Exception as error:
                if write.is_file and run.postpone_file():
                    continue
                if not is_refusal(error):
                    raise
                if write.what in ("create", "resume") or self._is_gone(run):
                    self._refuse(run, error)
                    continue
                self._note_refused(run, write, error, "")
            del run.writes[0]

    def _write_batch(self, run: PendingRun, what: str, items: Sequence[Any]) -> None:
        """Write parameters, tags or metrics in one request.

        If it is refused or too large, write them in halves, so that one does not hold up the rest.
        """
        try:
            batch: dict[str, Any] = {what: items}
            self.client.log_batch(run.run_id, **batch)
            self.confirmed += 1
        except Exception as error:
            is_refused = is_refusal(error) and not self._is_gone(run)
            if len(items) > 1 and (is_refused or is_too_large(error)):
                middle = len(items) // 2
                self._write_batch(run, what, items[:middle])
                self._write_batch(run, what, items[middle:])
            elif is_refused:
                name, value = items[0].key, items[0].value
                values: Any = {name: value}
                if what == "metrics":
                    values = [Point(items[0].step, items[0].timestamp, values)]
                self._note_refused(run, Write(what, values), error, f" '{name}'")
            else:
                raise

    def _is_gone(self, run: PendingRun) -> bool:
        """Whether the store does not have a run, or has it as deleted."""
        try:
            return bool(self.client.get_run(run.run_id).info.lifecycle_stage == "deleted")
        except Exception as error:
            if is_refusal(error):
                return True
            raise

    def _refuse(self, run: PendingRun, error: Exception) -> None:
        """Note that the store refuses all of a run, which is said unless that is raised."""
        run.refusal = self.describe(error)
        if run.is_open:
            self.tell_refusal(run)

    def tell_refusal(self, run: PendingRun) -> None:
        """Warn that the store refuses all of a run."""
        log.warning(
            "MLflow at %s refuses run %s (%s): the rest of it is not in MLflow; training "
            "continues, and the rest is written to a file at the end",
            self.uri,
            run.run_id,
            run.refusal,
        )

    def _note_refused(self, run: PendingRun, write: Write, error: Exception, name: str) -> None:
        """Keep a write that the store refuses for the file at the end."""
        self.refused.append(run.describe(write))
        if write.what not in self._told:
            log.warning(
                "MLflow at %s refuses the %s%s of run %s (%s)",
                self.uri,
                write.what,
                name,
                run.run_id,
                self.describe(error),
            )
            self._told.add(write.what)

    # One kind of write each

    def _write_model(self, run: PendingRun, model: NewModel) -> None:
        try:
            write_model(self.client, self.experiment_id, run.run_id, model)
        except SavingError as error:  # which has nothing to do with the store
            log.warning(
                "the model of run %s is not in MLflow: it cannot be saved (%s)",
                run.run_id,
                self.describe(error),
            )

    def _create(self, run: PendingRun, values: dict[str, Any]) -> None:
        found = self._find_by_tag(run.run_id) if run.may_exist else None
        run.may_exist = True
        if found:
            run.run_id = found.info.run_id
            return
        tags = {name: self._tag(name, value) for name, value in values["tags"].items()}
        tags["fedsmu.id"] = run.run_id
        name = shortened(encodable(values["name"]), MAX_NAME)
        created = self.client.create_run(
            self.experiment_id, values["start_time"], accepted(tags, MAX_TAG), name
        )
        run.run_id = created.info.run_id

    def _find_by_tag(self, run_id: str) -> Run | None:
        query = f"tags.`fedsmu.id` = '{run_id}'"
        found = self.client.search_runs([self.experiment_id], query)
        return found[0] if found else None

    def _write_params(self, run: PendingRun, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in accepted(values, MAX_PARAM).items()]
        self._write_batch(run, "params", params)

    def _write_tags(self, run: PendingRun, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        texts = {name: self._tag(name, str(value)) for name, value in values.items()}
        tags = [RunTag(name, value) for name, value in accepted(texts, MAX_TAG).items()]
        self._write_batch(run, "tags", tags)

    def _tag(self, name: str, value: str) -> str:
        """The value of a tag, with the ids that runs have in the store."""
        if name != DESCRIPTION:
            return self.store_id(value)
        runs = f"#/experiments/{self.experiment_id}/runs"
        return RUN_LINK.sub(lambda link: f"({runs}/{self.store_id(link[1])})", value)

    def _write_dataset(self, run: PendingRun, values: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = values["digest"][:DIGEST]  # the whole one is a tag
        dataset = Dataset(**{**values, "digest": digest, "source_type": "code"})
        used_for = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run.run_id, [DatasetInput(dataset, [used_for])])

    def _resume(self, run: PendingRun, values: dict[str, Any]) -> None:
        found, why = self._find(run.run_id)
        if found is None:
            log.warning(
                "run %s %s MLflow at %s; a new run gets everything from round 1",
                run.run_id,
                why,
                self.uri,
            )
            run.cursor, run.finals = RoundCursor(), {}
            run.writes[1:1] = creation(NewRun(**values))
            return
        run.run_id = found.info.run_id
        self._write_tags(run, _process_tag())  # before it is RUNNING: the old process is gone
        self.client.update_run(run.run_id, status="RUNNING")
        if values["parent"]:  # which may be another one than before
            self._write_tags(run, {"mlflow.parentRunId": values["parent"]})
        history = self.client.get_metric_history(run.run_id, "train/loss")
        run.cursor.advance(max((metric.step for metric in history), default=0))
        run.finals = found.data.metrics

    def _find(self, run_id: str) -> tuple[Run | None, str]:
        """The run with this id, or that was created in its place; or why there is none."""
        why = "is not in"
        try:
            found = self.client.get_run(run_id)
            if found.info.lifecycle_stage == "deleted":
                why = "was deleted in"
            elif found.info.experiment_id != self.experiment_id:
                why = "belongs to another experiment in"
            else:
                return found, ""
        except Exception as error:
            if not is_refusal(error):
                raise
        return self._find_by_tag(run_id), why

    def _write_metrics(self, run: PendingRun, points: list[Point]) -> None:
        from mlflow.entities import Metric

        while points:
            new = run.new_points(points[:ROUNDS_PER_BATCH])
            metrics = [
                Metric(accepted_name(name), value, point.timestamp, point.step)
                for point in new
                for name, value in point.metrics.items()
            ]
            metrics += [
                Metric(name, value, point.timestamp, step)
                for point in new
                if point.step
                for name, (value, step) in over_bytes(point.metrics).items()
            ]
            if metrics:
                self._write_batch(run, "metrics", metrics)
                run.cursor.advance(new[-1].step)
            del points[:ROUNDS_PER_BATCH]

    def _end(self, run: PendingRun, values: dict[str, Any]) -> None:
        self.client.set_terminated(run.run_id, **values)


def creation(run: NewRun) -> list[Write]:
    """The writes that create a run."""
    parent = {"mlflow.parentRunId": run.parent} if run.parent else {}
    values = {
        "name": run.name,
        "start_time": now(),
        "tags": {**run.tags, **_process_tag(), **parent},
    }
    files = [Write(name, text, is_file=True) for name, text in run.files.items()]
    data = [Write("dataset", dict(run.dataset))] if run.dataset else []
    return [Write("create", values), Write("params", dict(run.params)), *data, *files]


def _process_tag() -> dict[str, str]:
    """The tag of a run that this process writes."""
    here = identity.this_process()
    return {PROCESS: here.text()} if here else {}
