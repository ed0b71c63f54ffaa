"""Runs in a tracker as trials of a sweep that have ended, as its folder records them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedsmu_ray.sweeps.folder import FAILED
from fedsmu_ray.sweeps.outcome import COMPLETED, DIVERGED, history_columns
from fedsmu_ray.sweeps.settings import Row
from fedsmu_ray.sweeps.space import SEED
from fedsmu_ray.tracking.base import TrackedRun
from fedsmu_ray.tracking.metrics import (
    METRICS,
    direction_of,
    is_finite,
    is_target,
    judged_metric,
    rank,
    score_of,
)

# Sections of a configuration that do not make settings differ.
MACHINERY = ("compute", "checkpoint", "tracking", "tune")
METHOD = "algorithm.name"


def rows_of(runs: Sequence[TrackedRun], metric: str, order: Sequence[str] = ()) -> dict[int, Row]:
    """The trials by index: that of the runs of a sweep, else in the order of `runs`.

    metric: whose last value is the score. order: of keys, which trackers sort. Parameters of a
    trial are those in which the runs of its method differ.
    """
    # Earlier versions began their names with it.
    numbers = [re.match(r"(\d+)\b", run.tags.get("fedsmu.trial", run.name)) for run in runs]
    indexes = [int(number[1]) if number else -1 for number in numbers]
    if min(indexes) < 0 or len(set(indexes)) < len(indexes):
        indexes = list(range(len(runs)))
    params = [_params(run, order) for run in runs]
    methods = [run.tags.get("fedsmu.method") or str(p[METHOD]) for run, p in zip(runs, params)]
    differing = {method: _differing(params, methods, method) for method in methods}
    shown = dict.fromkeys(key for keys in differing.values() for key in keys)
    rows: dict[int, Row] = {}
    for index, run, method, own in zip(indexes, runs, methods, params, strict=True):
        seed = {SEED: own[SEED]} if SEED in own else {}
        kept = _joined({key: own.get(key) for key in differing[method]}, params, methods, method)
        values = {METHOD: method, **{key: own.get(key) for key in shown}}
        row = {"index": index, "name": run.name, "run_id": run.run_id, "method": method}
        row |= {"params": {METHOD: method, **kept, **seed}, "values": values}
        rows[index] = {**row, **_result(run, metric)}
    return rows


def _params(run: TrackedRun, order: Sequence[str]) -> dict[str, Any]:
    """The parameters of a run, which a tracker has as text, as values."""
    keys = [key for key in order if key in run.params]
    return {key: _value(run.params[key]) for key in dict.fromkeys([*keys, *run.params])}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _differing(
    params: Sequence[Mapping[str, Any]], methods: Sequence[str], method: str
) -> list[str]:
    """The keys in which the runs of a method differ, apart from the seed."""
    own = [each for each, of in zip(params, methods, strict=True) if of == method]
    keys = dict.fromkeys(key for each in own for key in each)
    return [
        key
        for key in keys
        if key not in (SEED, METHOD)
        and key.split(".")[0] not in MACHINERY
        and len({repr(each.get(key)) for each in own}) > 1
    ]


def _joined(
    own: Mapping[str, Any],
    params: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    method: str,
) -> dict[str, Any]:
    """Parameters of which those that are equal in all runs of a method share a key: "a, b"."""
    runs = [each for each, of in zip(params, methods, strict=True) if of == method]
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in own:
        groups.setdefault(tuple(repr(each.get(key)) for each in runs), []).append(key)
    return {", ".join(keys): own[keys[0]] for keys in groups.values()}


def _result(run: TrackedRun, metric: str) -> dict[str, Any]:
    """What a run came to: its error, or its figures, of its last evaluated round."""
    ended_as = COMPLETED if run.status == "finished" else run.status
    status = run.tags.get("fedsmu.status", ended_as)
    if (error := run.tags.get("fedsmu.error")) and status in (FAILED, DIVERGED):
        return {"status": status, "error": error, "score": None}
    history = history_columns(run.history)
    last = run.history[max(run.history)]
    needs = {k.removeprefix("final/"): v for k, v in run.metrics.items() if "_to_" in k}
    score = score_of(metric, last, needs) if is_target(metric) else last.get(metric)
    judged = judged_metric(last)
    return {
        **needs,
        **{m.field: last.get(m.name) for m in METRICS if m.final},
        **{m.field: _whole(last.get(m.name)) for m in METRICS if m.unit == "bytes"},
        f"best_{judged.replace('/', '_')}": _best(run, judged),
        "rounds": max(run.history),
        "dropped": _whole(last.get("clients/dropped", 0)),
        "retried": _whole(last.get("clients/retried", 0)),
        "seconds": run.metrics.get("final/seconds"),
        "model_sha256": run.tags.get("model_sha256"),
        "status": status if is_finite(score) or is_target(metric) else DIVERGED,
        "score": score if is_finite(score) else None,
        "history": history,
    }


def _best(run: TrackedRun, metric: str) -> float | None:
    values = [each.get(metric) for each in run.history.values()]
    return min(values, key=lambda value: rank(value, direction_of(metric)))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
