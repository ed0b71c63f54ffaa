"""What an experiment or a sweep gives to its tracker, and where that has its runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray.config.schema import PROFILES, Config
from fedsmu_ray.display.colors import color_of
from fedsmu_ray.experiment.summary import in_words
from fedsmu_ray.files.run_folders import RUN
from fedsmu_ray.tracking import registry
from fedsmu_ray.tracking.base import NewRun, Tracker

DATA_DIGEST = "fedsmu.data_digest"  # tag of a run with `Dataset.digest`
NODES = "fedsmu.nodes"  # tag of a run with the nodes that have trained its clients

STOPPED = "fedsmu.stopped"  # tag of a run that `federation.stop` has ended: why


def open_tracker(config: Config, folder: Path) -> Tracker:
    """The tracker of a configuration; folder: for what cannot be written to its store."""
    own = config.tracking
    return registry.open_tracker(own.uri, own.experiment, folder, own.also, own.folder)


def new_run(
    name: str,
    config: Config,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    swept: Collection[str] = (),
) -> NewRun:
    """The run of a configuration, for a tracker: flat parameters, and config.yaml as an artifact.

    parent: run id of the sweep that the run belongs to. swept: dotted keys in which the trials of
    the sweep that this run stands for differ: they, and what depends on them, are left out. The
    data set is told if `tags` have its digest.
    """
    params = {
        key: str(value)
        for key, value in config.flat().items()
        if key != "name" and not _depends_on(key, swept)
    }
    own_tags = {"mlflow.source.name": "fedsmu_ray", **_in_words(config, swept)}
    digest = (tags or {}).get(DATA_DIGEST)
    return NewRun(
        name,
        params,
        {**own_tags, **(tags or {})},
        {RUN.file: config.to_yaml()},
        parent,
        dataset=_dataset(config, digest) if digest else None,
        system_metrics=config.tracking.system_metrics and parent is None,
        metrics=(*config.task.metrics, *config.evaluation.metrics(config.task.may_have_accuracy)),
    )


def _depends_on(key: str, swept: Collection[str]) -> bool:
    """Whether trials that differ in the swept keys may differ in this one."""
    section = key.split(".")[0]
    of_profile = "algorithm.profile" in swept and any(key in own for own in PROFILES.values())
    return (
        key in swept
        or (section in ("algorithm", "model") and f"{section}.name" in swept)
        or of_profile
    )


def _in_words(config: Config, swept: Collection[str]) -> dict[str, str]:
    """Tags by which runs are told apart and searched."""
    tags = {"fedsmu.metric": ", ".join(config.tune.metrics)}
    if "algorithm.name" not in swept:
        tags |= {
            "fedsmu.method": config.method_name,
            "mlflow.runColor": color_of(config.method_name),
        }
    if not any(key.startswith("data.") for key in swept):
        tags["fedsmu.dataset"] = config.data.dataset
        tags["fedsmu.split"] = _split(config)
    return tags


def _split(config: Config) -> str:
    """The split of the data in words, such as `Dirichlet(0.25), 100 clients`."""
    data = config.data
    aside = f", {100 * data.validation:g} % for validation" if data.validation else ""
    return f"{data.partition.in_words()}, {data.clients} clients{aside}"


def _dataset(config: Config, digest: str) -> dict[str, str]:
    data = config.data
    source = {"dataset": data.dataset, "root": data.root}
    return {
        "name": data.dataset,
        "digest": digest,
        "source": json.dumps(source),
        "profile": json.dumps({"split": _split(config)}),
    }


def ended_tags(summary: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a run that has ended, from its summary."""
    tags = {NODES: in_words(summary["nodes"])}
    tags |= {"model_sha256": summary["model_sha256"]} if summary["model_sha256"] else {}
    return tags | ({STOPPED: summary["stopped"]} if summary.get("stopped") else {})


def where_tracked(config: Config, tracker: Tracker) -> dict[str, Any]:
    """Where the runs are, for the results of an experiment or a sweep."""
    return {
        "tracking_uri": tracker.uri,
        "not_in_mlflow": tracker.missing,
        "also_tracked": registry.also_places(config.tracking.also, config.tracking.folder),
    }
