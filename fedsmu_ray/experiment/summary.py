"""The summary of an experiment's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsmu_ray.config.schema import Config
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.stopping import stop_reason
from fedsmu_ray.tracking.metrics import (
    METRICS,
    NEEDS,
    Metric,
    is_finite,
    judged_metric,
    needs_field,
    rank,
    tracked,
    value_of,
)


def summarize(
    problem: Problem,
    progress: Progress,
    sha256: str | None,
    seconds: float,
    trained_on: Mapping[str, int],
) -> dict[str, Any]:
    """The figures that runs are compared by.

    Accuracies are 0 to 1, the best one on the validation samples, if there are some. Bytes are
    totals over rounds and clients. sha256: of the final model, if it is known. seconds: wall time
    of the experiment. trained_on: clients by node.
    """
    config, last = problem.config, progress.last
    has_validation = bool(config.data.validation)
    judged = judged_metric(tracked(last))
    best = progress.best(judged)

    def is_shown(metric: Metric) -> bool:
        if metric.of_task:
            return metric.name in last.scores
        return has_validation or not metric.name.startswith("val/")

    return {
        "name": config.name,
        "method": config.method_name,
        "rounds": last.round,
        **_stopped(config, progress),
        **_to_targets(config, progress),
        **{m.field: m.raw(last) for m in METRICS if m.final and is_shown(m)},
        f"best_{judged.replace('/', '_')}": value_of(judged, best),
        "best_round": best.round,
        "dropped": last.dropped,
        "retried": last.retried,
        "clients": config.data.clients,
        "cohort": config.federation.cohort,
        "dim": problem.dim,
        "model_sha256": sha256,
        "seconds": round(seconds, 3),
        "nodes": dict(sorted(trained_on.items())),
    }


def _stopped(config: Config, progress: Progress) -> dict[str, str | None]:
    """Why the run has ended before its last round, if it may: None if it has not."""
    if not config.federation.stop.is_set:
        return {}
    ends_early = progress.last.round < config.federation.rounds
    return {"stopped": stop_reason(config, progress.evaluated) if ends_early else None}


def _to_targets(config: Config, progress: Progress) -> dict[str, float | None]:
    """What it took to reach each of `federation.targets`; None if it was not reached."""
    found: dict[str, float | None] = {}
    for target in config.federation.targets:
        records = (r for r in progress.evaluated if is_finite(r.accuracy))
        first = next((r for r in records if rank(r.accuracy, "max") <= -target), None)
        values: dict[str, float] = {}
        if first:
            up, down = first.uplink_bytes, first.downlink_bytes
            values = {"rounds": first.round, "uplink_bytes": up, "total_bytes": up + down}
            values["seconds"] = round(first.elapsed, 3)
        found |= {needs_field(need, target): values.get(need) for need in NEEDS}
    return found


def in_words(trained_on: Mapping[str, int]) -> str:
    """How many clients each node has trained, for a line or a tag."""
    return ", ".join(f"{node} {count}" for node, count in trained_on.items())
