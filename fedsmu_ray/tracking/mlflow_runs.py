"""Runs that MLflow has, read as plain data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.secrets import cut
from fedsmu_ray.tracking.base import TrackedRun, absolute_uri
from fedsmu_ray.tracking.metrics import ACCURACIES, METRICS
from fedsmu_ray.tracking.mlflow_store import first_line, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
CONFIG = "config.yaml"  # artifact
# An evaluated round has these, and an accuracy; runs of others may have neither.
BYTES = {"comm/uplink_bytes", "comm/downlink_bytes"}


def sweep(uri: str, run_id: str) -> tuple[TrackedRun, list[TrackedRun]]:
    """The run of a sweep and those of its trials, the oldest first; a run alone has none.

    Raises ConfigError if the store cannot be read or has no such run.
    """
    with _client(uri, f"run {run_id}") as client:
        run = client.get_run(run_id)
        found = _search(client, run.info.experiment_id, f"tags.`{PARENT}` = '{run_id}'")
        config = _config(run_id, absolute_uri(uri))
        return _read(client, run, config), [_read(client, each) for each in found]


def experiment(uri: str, name: str) -> list[TrackedRun]:
    """All runs of an experiment but those of sweeps, which have no rounds; the oldest first.

    Raises ConfigError if the store cannot be read or has no such experiment.
    """
    with _client(uri, f"experiment '{name}'") as client:
        found = client.get_experiment_by_name(name)
        if found is None:
            known = ", ".join(sorted(e.name for e in client.search_experiments(max_results=20)))
            raise ConfigError(
                [f"experiment '{name}': MLflow at {cut(uri)} has none of this name, but {known}"]
            )
        runs = _search(client, found.experiment_id, "")
        own = [run for run in runs if run.data.tags.get("fedsmu.sweep") != "parent"]
        return [_read(client, run) for run in own]


@contextmanager
def _client(uri: str, what: str) -> Iterator[MlflowClient]:
    """A client of the store; what it raises becomes a ConfigError about what is read."""
    environment.set_mlflow_defaults()
    from mlflow import MlflowClient

    quiet()
    try:
        yield MlflowClient(absolute_uri(uri))
    except ConfigError:
        raise
    except Exception as error:  # each kind of store has its own exceptions
        raise ConfigError(
            [f"{what} in MLflow at {cut(uri)}: cannot be read ({first_line(error, uri)})"]
        ) from None


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _read(client: MlflowClient, run: Run, config: str = "") -> TrackedRun:
    info, data = run.info, run.data
    history: dict[int, dict[str, float]] = {}
    for metric in METRICS:
        if metric.name in data.metrics:
            for point in client.get_metric_history(info.run_id, metric.name):
                history.setdefault(point.step, {})[metric.name] = point.value
    evaluated = {
        number: own
        for number, own in history.items()
        if own.keys() >= BYTES and any(name in own for name in ACCURACIES)
    }
    return TrackedRun(
        run_id=info.run_id,
        name=info.run_name or info.run_id,
        status=info.status.lower(),
        params=data.params,
        tags=data.tags,
        metrics=data.metrics,
        history=dict(sorted(evaluated.items())),
        config=config,
    )


def _config(run_id: str, uri: str) -> str:
    """The configuration that is logged with a run; empty if it cannot be read."""
    from mlflow import artifacts

    with tempfile.TemporaryDirectory(prefix="fedsmu-report-") as folder:
        try:
            file = artifacts.download_artifacts(
                run_id=run_id, artifact_path=CONFIG, dst_path=folder, tracking_uri=uri
            )
        except Exception:  # each kind of store has its own exceptions; the rest can be reported
            return ""
        return Path(file).read_text(encoding="utf-8")
