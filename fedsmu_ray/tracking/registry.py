"""Which tracker a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from fedsmu_ray.tracking.base import NoTracker, Tracker


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
