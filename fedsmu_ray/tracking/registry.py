"""Which tracker a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.secrets import cut
from fedsmu_ray.tracking.base import NoTracker, Tracker, database_file


def open_tracker(uri: str | None, experiment: str, folder: str | Path = ".") -> Tracker:
    """The tracker for a tracking URI: MLflow, or `NoTracker` for None (or an empty URI).

    Creates the store and the experiment if they do not exist. folder: receives a file with
    everything that could not be written to the store. Raises ConfigError if the store cannot be
    opened.
    """
    if not uri:
        return NoTracker()
    from fedsmu_ray.tracking.mlflow import MLflowTracker

    return MLflowTracker(uri, experiment, folder)


def tracked_model(uri: str, run_id: str) -> bytes:
    """The content of the model file that was logged with a run (of a sweep: its best trial's).

    Raises ConfigError if the store cannot be opened or has no such run, and ModelFileError if the
    run has no model.
    """
    path = database_file(uri)
    if path and not path.exists():
        raise ConfigError([f"tracking.uri = '{cut(uri)}': there is no such database"])
    from fedsmu_ray.tracking.mlflow_models import download

    return download(uri, run_id)
