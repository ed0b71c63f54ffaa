"""What an experiment or a sweep gives to its tracker, and where that has its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray.config.schema import Config
from fedsmu_ray.files.run_folders import RUN
from fedsmu_ray.tracking import registry
from fedsmu_ray.tracking.base import NewRun, Tracker

DATA_DIGEST = "fedsmu.data_digest"  # tag of a run with `Dataset.digest`
NODES = "fedsmu.nodes"  # tag of a run with the nodes that have trained its clients


def open_tracker(config: Config, folder: Path) -> Tracker:
    """The tracker of a configuration; folder: for what cannot be written to its store."""
    own = config.tracking
    return registry.open_tracker(own.uri, own.experiment, folder, own.also, own.folder)


def new_run(
    name: str, config: Config, tags: Mapping[str, str] | None = None, parent: str | None = None
) -> NewRun:
    """The run of a configuration, for a tracker: flat parameters, and config.yaml as an artifact.

    parent: run id of the sweep that the run belongs to.
    """
    params = {key: str(value) for key, value in config.flat().items() if key != "name"}
    own_tags = {"mlflow.source.name": "fedsmu_ray", "fedsmu.method": config.method_name}
    files = {RUN.file: config.to_yaml()}
    return NewRun(name, params, {**own_tags, **(tags or {})}, files, parent)


def where_tracked(config: Config, tracker: Tracker) -> dict[str, Any]:
    """Where the runs are, for the results of an experiment or a sweep."""
    return {
        "tracking_uri": tracker.uri,
        "not_in_mlflow": tracker.missing,
        "also_tracked": registry.also_places(config.tracking.also, config.tracking.folder),
    }
