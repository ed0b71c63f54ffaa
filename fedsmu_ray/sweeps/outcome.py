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

from fedsmu_ray.config.schema import Config
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
    summarize_settings,
)
from fedsmu_ray.sweeps.space import baselines, seed_count, swept_keys
from fedsmu_ray.tracking.metrics import METRICS, rank

COMPLETED = "completed"
STOPPED = "stopped"  # by the scheduler, before its last round
NEEDED = ("rounds", "uplink_bytes", "total_bytes")  # to reach a target
DIVERGED = "diverged"  # its score, or its model, is NaN or infinite

log = logging.getLogger(__name__)


def results(config: Config, ended: Mapping[int, Row]) -> dict[str, Any]:
    """Trials, settings and findings of a sweep.

    ended: what its folder has of trials that have ended, by index (`SweepFolder.ended`).
    """
    tune, rows = config.tune, [row for _, row in sorted(ended.items())]
    with_result = [row for row in rows if "error" not in row]
    diverged = _without_result(rows, DIVERGED)
    fixed = len(baselines(tune)) * seed_count(tune)
    settings = summarize_settings(with_result, diverged, tune, fixed)
    trials = [_without(row, ("event", "history")) for row in with_result]
    best = settings[0]["trials"] if settings and settings[0]["score"] else ()
    return {
        "trials": trials,
        "settings": settings,
        "findings": list(findings(settings)),
        "best": min(
            (trial for trial in trials if trial["index"] in best),
            key=lambda trial: rank(trial["score"], tune.direction),
            default=None,
        ),
        "failed": _without_result(rows, FAILED),
        "diverged": diverged,
    }


def _without(row: Row, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _without_result(rows: Sequence[Row], status: str) -> list[dict[str, Any]]:
    """The trials that have ended with an error and this status, by index."""
    keys = ("index", "name", "params", "run_id", "error")
    found = [row for row in rows if row["status"] == status and "error" in row]
    return [{key: row[key] for key in keys} for row in found]


def history_columns(evaluated: Mapping[int, Mapping[str, float]]) -> dict[str, list[Any]]:
    """The metrics of evaluated rounds as columns; None where one was not measured."""
    rounds = sorted(evaluated)
    columns = {m.name: [evaluated[r].get(m.name) for r in rounds] for m in METRICS}
    return {"round": rounds, **columns}


def write_tables(
    folder: Place, config: Config, outcome: Mapping[str, Any], ended: Mapping[int, Row]
) -> None:
    """Write the tables into the folder of the sweep; what cannot be written is a warning."""
    rows = [ended[trial["index"]] for trial in outcome["trials"]]
    targets = [target["accuracy"] for target in outcome["findings"]]
    try:
        write(folder / "results.json", to_json(outcome) + "\n")
        write(folder / "results.csv", _csv(_result_rows(rows, swept_keys(config.tune), targets)))
        write(folder / "history.csv", _csv(_history_rows(rows)))
    except OSError as error:
        log.warning("%s: the tables of the sweep cannot be written (%s)", folder, error)


def _result_rows(
    rows: Sequence[Row], swept: Sequence[str], targets: Sequence[float]
) -> Iterable[dict[str, Any]]:
    left = {"event", "history", "values", "params", "nodes", "index", "name"}
    for row in rows:
        values, history = row.get("values", row["params"]), row.get("history", {})
        found = {target: reached(history, target) or {} for target in targets}
        yield {
            "index": row["index"],
            "setting": setting_name(row["params"], row["method"]),
            **{key: values.get(key) for key in swept},
            **_without(row, tuple(left)),
            **{f"{key}_to_{t:g}": found[t].get(key) for t in targets for key in NEEDED},
        }


def _history_rows(rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
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
