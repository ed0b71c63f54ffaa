"""Settings of a sweep: the trials that differ only in the seed, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import le
from statistics import fmean, stdev
from typing import Any

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.display.formatting import describe_params
from fedsmu_ray.sweeps.space import SEED, Params
from fedsmu_ray.tracking.metrics import METRICS, direction_of, field_of, is_finite, is_target, rank

MIN_PAIRS = 3  # of seeds, for a test
# Accuracies that may be the target of a sweep that names none.
LADDER = (*(n / 20 for n in range(1, 19)), 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
AVERAGED = [metric.field for metric in METRICS if metric.final]
AVERAGED += [f"best_{metric.field}" for metric in METRICS if metric.best] + ["rounds", "seconds"]

Row = Mapping[str, Any]  # of a trial, or a setting
History = Mapping[str, Sequence[Any]]  # columns of evaluated rounds, see `SweepFolder.trial_ended`


def setting_name(params: Params, method: str) -> str:
    """The name of a setting: its method and the parameters of its trials without the seed."""
    others = {k: v for k, v in params.items() if k not in (SEED, "algorithm.name")}
    return f"{method} {describe_params(others)}".strip()


def setting_key(params: Params) -> str:
    """What is equal for the trials of a setting only."""
    return repr(sorted(_without_seed(params).items()))


def _without_seed(params: Params) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != SEED}


def statistics(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation and half the width of the 95 % interval of the mean (t).

    The last two are None for a single value. None if a value is missing or not finite.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or len(known) < len(values):
        return None
    spread = stdev(known) if len(known) > 1 else None
    half = None if spread is None else _t95(len(known)) * spread / math.sqrt(len(known))
    return {"mean": fmean(known), "std": spread, "ci95": half, "n": len(known)}


def _t95(n: int) -> float:
    """The factor of a two-sided 95 % interval of the mean of `n` normal values."""
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1))


def summarize_settings(
    trials: Sequence[Row],
    diverged: Sequence[Row],
    tune: TuneConfig,
    baselines: int,
    targets: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """The settings of a sweep as rows, the best first.

    trials: with a result, and their `history` (see `SweepFolder.trial_ended`), by index. diverged:
    those without one. baselines: how many trials, from the first one on, are baselines. targets:
    accuracies for which is told what the settings need; by default the highest that every method
    reaches.

    A setting has no score if a trial of it has diverged, or has not reached the target that the
    metric is about; these come last. Everything else is over the seeds that
    have ended.
    """
    groups: dict[str, list[Row]] = {}
    for trial in sorted([*trials, *diverged], key=lambda trial: trial["index"]):
        groups.setdefault(setting_key(trial["params"]), []).append(trial)
    rows = [_summarize(group, tune.metrics) for group in groups.values() if _results(group)]
    histories = {trial["index"]: trial.get("history", {}) for trial in trials}
    targets = targets or _own_target(histories, rows)
    base = _base(rows, tune, baselines)
    for row in rows:
        own = [trial for trial in trials if trial["index"] in row["trials"]]
        row["targets"] = [_to_target(own, t) for t in targets]
        other = None if base in (None, row) else base
        row["difference"] = other and _difference(_group(groups, row), other, _group(groups, other))
    if len(tune.metrics) > 1:
        _mark_front(rows)
    return sorted(rows, key=lambda row: (rank(_mean(row["score"]), tune.direction), -row["scored"]))


def _group(groups: Mapping[str, Sequence[Row]], row: Row) -> Sequence[Row]:
    return groups[setting_key(row["params"])]


def _results(group: Sequence[Row]) -> list[Row]:
    """The trials of a setting that have a result."""
    return [trial for trial in group if "error" not in trial]


def _mean(stats: Mapping[str, Any] | None) -> float | None:
    return stats["mean"] if stats else None


def _summarize(group: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    ended = _results(group)
    first = ended[0]
    return {
        "name": setting_name(first["params"], first["method"]),
        "method": first["method"],
        "params": _without_seed(first["params"]),
        "values": first.get("values", _without_seed(first["params"])),
        "trials": [trial["index"] for trial in ended],
        "diverged": sum(1 for trial in group if _has_diverged(trial, metrics[0])),
        "scored": sum(1 for trial in group if is_finite(trial.get("score"))),
        "score": statistics([trial.get("score") for trial in group]),
        **{key: statistics([trial.get(key) for trial in ended]) for key in AVERAGED},
        **({"objectives": _objectives(group, metrics)} if len(metrics) > 1 else {}),
    }


def _objectives(group: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    """The statistics of a setting by each of several metrics, as those of its score."""
    first, *others = metrics
    scores = {first: [trial.get("score") for trial in group]}
    scores |= {name: [trial.get(field_of(name)) for trial in group] for name in others}
    return {name: statistics(values) for name, values in scores.items()}


def _mark_front(rows: Sequence[dict[str, Any]]) -> None:
    """Note in `pareto` which settings no other one beats: better by one metric, worse by none."""
    ranks = [
        [rank(_mean(stats), direction_of(name)) for name, stats in row["objectives"].items()]
        for row in rows
    ]
    for row, own in zip(rows, ranks, strict=True):
        beaten = any(all(map(le, other, own)) and other != own for other in ranks)
        row["pareto"] = all(map(math.isfinite, own)) and not beaten


def _has_diverged(trial: Row, metric: str) -> bool:
    """Whether a trial, failed ones apart, has no score but for a target that it did not reach."""
    return not is_finite(trial.get("score")) and ("error" in trial or not is_target(metric))


def reached(history: History, target: float) -> dict[str, int] | None:
    """The first evaluated round with this accuracy, and the bytes up to it; None if there is none.

    history: columns of tracked metrics by name, and `round`.
    """
    for i, accuracy in enumerate(history.get("val/accuracy") or history.get("test/accuracy", ())):
        if accuracy is not None and accuracy >= target:
            up, down = history["comm/uplink_bytes"][i], history["comm/downlink_bytes"][i]
            total = int(up) + int(down)
            return {"rounds": history["round"][i], "uplink_bytes": int(up), "total_bytes": total}
    return None


def _to_target(trials: Sequence[Row], target: float) -> dict[str, Any]:
    """What the trials of a setting need to reach an accuracy; None unless all of them reach it."""
    found = [reached(trial.get("history", {}), target) for trial in trials]
    arrived = [each for each in found if each is not None]
    all_have = len(arrived) == len(found)
    keys = ("rounds", "uplink_bytes", "total_bytes")
    figures = {key: statistics([e[key] for e in arrived]) if all_have else None for key in keys}
    return {"accuracy": target, "reached": len(arrived), "of": len(found), **figures}


def _own_target(histories: Mapping[int, History], rows: Sequence[Row]) -> tuple[float, ...]:
    """The highest accuracy of the ladder that a setting of each method reaches with all seeds."""

    def reaches(row: Row, target: float) -> bool:
        return all(reached(histories[index], target) for index in row["trials"])

    methods = {row["method"]: [r for r in rows if r["method"] == row["method"]] for row in rows}
    for target in reversed(LADDER):
        if all(any(reaches(row, target) for row in group) for group in methods.values()):
            return (target,)
    return ()


def _base(rows: Sequence[Row], tune: TuneConfig, baselines: int) -> Row | None:
    """The setting that others are compared with: a baseline of `tune.compare_to`, or the first."""
    fixed = [row for row in rows if row["trials"][0] < baselines]
    fixed = [row for row in fixed if tune.compare_to in (None, row["method"])]
    if tune.compare_to is None:
        return fixed[0] if fixed else None
    return min(fixed, key=lambda row: rank(_mean(row["score"]), tune.direction), default=None)


def _difference(
    group: Sequence[Row], base: Row, base_group: Sequence[Row]
) -> dict[str, Any] | None:
    """The paired t-test of two settings over the seeds that both have; None for too few."""
    own, other = _by_seed(group), _by_seed(base_group)
    pairs = [own[seed] - other[seed] for seed in own if seed in other]
    if len(pairs) < MIN_PAIRS:
        return None
    return {"to": base["name"], **(statistics(pairs) or {}), "p": _p_value(pairs)}


def _by_seed(group: Sequence[Row]) -> dict[Any, float]:
    scored = [trial for trial in group if is_finite(trial.get("score"))]
    return {trial["params"].get(SEED): trial["score"] for trial in scored}


def _p_value(differences: Sequence[float]) -> float | None:
    """Of a two-sided one-sample t-test against 0; None if all are equal."""
    from scipy.stats import ttest_1samp

    if len(set(differences)) == 1:
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)


def findings(rows: Sequence[Row], metric: str = "test/accuracy") -> Iterator[dict[str, Any]]:
    """For each target: the settings by which the methods reach it with the least upload.

    rows: of `summarize_settings`. metric: the accuracy that targets are about. Methods that do not
    reach it are left out; the others are sorted by upload.
    """
    for i, target in enumerate(rows[0]["targets"] if rows else ()):
        best: dict[str, dict[str, Any]] = {}
        for row in rows:
            needs = row["targets"][i]
            if needs["uplink_bytes"]:
                found = {"method": row["method"], "setting": row["name"], **needs}
                kept = best.setdefault(row["method"], found)
                if _upload(found) < _upload(kept):
                    best[row["method"]] = found
        missing = sorted({row["method"] for row in rows} - set(best))
        ranked = sorted(best.values(), key=_upload)
        accuracy = target["accuracy"]
        yield {"metric": metric, "accuracy": accuracy, "methods": ranked, "missed_by": missing}


def _upload(needs: Row) -> float:
    return float(needs["uplink_bytes"]["mean"])
