"""The outcome of a sweep, from what its folder has of its trials, and its tables.

results.json    the outcome, as `tune --json` prints it
results.csv     one row per trial
history.csv     one row per evaluated round of each trial
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.sweeps.folder import FAILED
from fedsmu_ray.sweeps.settings import (
    History,
    Row,
    findings,
    reached,
    setting_name,
    statistics,
    summarize_settings,
)
from fedsmu_ray.sweeps.space import baselines, seed_count
from fedsmu_ray.tracking.metrics import METRICS, accuracy_metric, rank

COMPLETED = "completed"
STOPPED = "stopped"  # by the scheduler, before its last round
NEEDED = ("rounds", "uplink_bytes", "total_bytes")  # to reach a target
DIVERGED = "diverged"  # its score, or its model, is NaN or infinite
# Results on the test set, and the key below which they are put aside.
ON_TEST = [metric.field for metric in METRICS if metric.name.startswith("test/")]
TESTED = "tested"

log = logging.getLogger(__name__)


def results(
    tune: TuneConfig,
    ended: Mapping[int, Row],
    has_validation: bool = False,
    is_final: bool = True,
    targets: Sequence[float] = (),
) -> dict[str, Any]:
    """Trials, settings and findings of a sweep.

    ended: what its folder has of trials that have ended, by index (`SweepFolder.ended`). With
    validation samples, only the best setting of each method has results on the test set, and only
    if no further trials are to come (is_final). targets: see `summarize_settings`.
    """
    rows = [row for _, row in sorted(ended.items())]
    with_result = [row for row in rows if "error" not in row]
    diverged = _without_result(rows, DIVERGED)
    fixed = len(baselines(tune)) * seed_count(tune)
    settings = summarize_settings(with_result, diverged, tune, fixed, targets)
    trials = [_without(row, ("event", "history", TESTED)) for row in with_result]
    if has_validation and is_final:
        _reveal(settings, {trial["index"]: trial for trial in trials}, ended)
    for setting in (row for row in settings if "pareto" in row):
        for trial in trials:
            if trial["index"] in setting["trials"]:
                trial["pareto"] = setting["pareto"]
    best = settings[0]["trials"] if settings and settings[0]["score"] else ()
    return {
        "trials": trials,
        "settings": settings,
        "findings": list(findings(settings, accuracy_metric(has_validation))),
        "best": min(
            (trial for trial in trials if trial["index"] in best),
            key=lambda trial: rank(trial["score"], tune.direction),
            default=None,
        ),
        "failed": _without_result(rows, FAILED),
        "diverged": diverged,
    }


def hide_test(summary: Row) -> dict[str, Any]:
    """The summary of a trial with its results on the test set put aside, until trials are chosen.

    Trials must not be compared by them where there are validation samples.
    """
    tested = {key: summary[key] for key in ON_TEST if key in summary}
    return {**summary, **dict.fromkeys(tested), TESTED: tested}


def _reveal(
    settings: Sequence[dict[str, Any]],
    trials: Mapping[int, dict[str, Any]],
    ended: Mapping[int, Row],
) -> None:
    """Add the results on the test set to the best setting of each method, and to its trials."""
    chosen: dict[str, dict[str, Any]] = {}
    for setting in settings:
        if setting["score"]:
            chosen.setdefault(setting["method"], setting)
    for setting in chosen.values():
        tested = [ended[index][TESTED] for index in setting["trials"]]
        for index, values in zip(setting["trials"], tested):
            trials[index].update(values)
        setting.update({key: statistics([each[key] for each in tested]) for key in tested[0]})


def _without(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _without_result(rows: Sequence[Row], status: str) -> list[dict[str, Any]]:
    """The trials that have ended with an error and this status, by index."""
    keys = ("index", "name", "params", "run_id", "error")
    found = [row for row in rows if row["status"] == status and "error" in row]
    return [{key: row[key] for key in keys} for row in found]


def history_columns(evaluated: Mapping[int, Mapping[str, float]]) -> dict[str, list[Any]]:
    """The metrics of evaluated rounds as columns; None in rounds where one was not measured."""
    rounds = sorted(evaluated)
    measured = {name for metrics in evaluated.values() for name in metrics}
    names = [metric.name for metric in METRICS if metric.name in measured]
    return {"round": rounds, **{n: [evaluated[r].get(n) for r in rounds] for n in names}}


def write_tables(folder: Place, outcome: Mapping[str, Any], ended: Mapping[int, Row]) -> None:
    """Write the tables into the folder of the sweep; what cannot be written is a warning."""
    rows = [{**ended[trial["index"]], **trial} for trial in outcome["trials"]]
    targets = [target["accuracy"] for target in outcome["findings"]]
    try:
        write(folder / "results.json", to_json(outcome) + "\n")
        write(folder / "results.csv", _csv(result_rows(rows, targets)))
        write(folder / "history.csv", _csv(history_rows(rows)))
    except OSError as error:
        log.warning("%s: the tables of the sweep cannot be written (%s)", folder, error)


def result_rows(rows: Sequence[Row], targets: Sequence[float]) -> Iterable[dict[str, Any]]:
    """The trials with a result as rows of a table; targets: accuracies (0 to 1)."""
    left = {"event", "history", "values", "params", "nodes", "index", "name", TESTED}
    for row in rows:
        values, history = row.get("values", row["params"]), row.get("history", {})
        found = {target: reached(history, target) or {} for target in targets}
        yield {
            "index": row["index"],
            "setting": setting_name(row["params"], row["method"]),
            **values,
            **_without(row, tuple(left)),
            **{f"{key}_to_{t:g}": found[t].get(key) for t in targets for key in NEEDED},
        }


def history_rows(rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """The evaluated rounds of trials as rows of a table."""
    for row in rows:
        history: History = row.get("history", {})
        for i, number in enumerate(history.get("round", ())):
            columns = {key: column[i] for key, column in history.items() if key != "round"}
            setting = setting_name(row["params"], row["method"])
            yield {"index": row["index"], "setting": setting, "round": number, **columns}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the columns of all of them; what is None is empty."""
    listed = list(rows)
    columns = dict.fromkeys(key for row in listed for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()
