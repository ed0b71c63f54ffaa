"""Results of experiments and sweeps on stdout."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fedsmu_ray.display.formatting import (
    dropped_note,
    percent,
    plain_value,
    short_key,
    size,
    stdout,
)
from fedsmu_ray.files.run_folders import SWEEP
from fedsmu_ray.tracking.metrics import is_finite, rank


def print_run(summary: Mapping[str, Any]) -> None:
    """Print the results of one experiment, and where its run is tracked."""
    console = stdout()
    console.print(
        f"test accuracy {percent(summary['test_accuracy'])} after {summary['rounds']} rounds "
        f"(best {percent(summary['best_test_accuracy'])} in round {summary['best_round']}); "
        f"uploaded {size(summary['uplink_bytes'])}, downloaded {size(summary['downlink_bytes'])}, "
        f"{summary['seconds']:.1f} s{dropped_note(summary['dropped'])}",
        soft_wrap=True,
    )
    if not is_finite(summary["test_loss"]):
        console.print(
            f"the model has diverged: test loss {summary['test_loss']}; lower local.lr or the "
            "server's step size",
            soft_wrap=True,
        )
    console.print(f"model {summary['model_sha256']}", soft_wrap=True)
    if len(nodes := summary["nodes"]) > 1:
        counts = ", ".join(f"{node} {count}" for node, count in nodes.items())
        console.print(f"clients trained by node: {counts}", soft_wrap=True)
    _print_store(console, summary)


def print_sweep(outcome: Mapping[str, Any], limit: int = 12) -> None:
    """Print the `limit` best trials of a sweep, the failed ones, and where the runs are."""
    console = stdout()
    mode, metric = outcome["mode"], outcome["metric"]
    trials = sorted(outcome["trials"], key=lambda trial: rank(trial["score"], mode))
    if trials:
        title = f"the best {min(limit, len(trials))} of {len(trials)} trials, by {metric}"
        keys = list(dict.fromkeys(k for t in trials for k in t["params"] if k != "algorithm.name"))
        console.print(_trial_table(title, keys, metric, trials[:limit]))
    if diverged := [trial["name"] for trial in trials if not is_finite(trial["score"])]:
        console.print(
            f"diverged, with {metric} NaN or infinite: {'; '.join(diverged)}", soft_wrap=True
        )
    for status in ("diverged", "failed"):
        for trial in outcome[status]:
            console.print(f"{status}: {trial['name']}: {trial['error']}", soft_wrap=True)
    if outcome["failed"]:
        again = SWEEP.resume_command(outcome["folder"])
        console.print(f"to run what has failed once more: {again}", soft_wrap=True)
    _print_nodes(console, outcome["trials"])
    if outcome["tracking_uri"]:
        console.print(
            f"\nsweep of {outcome['seconds']:.0f} s in experiment '{outcome['experiment']}', run "
            f"'{outcome['name']}' (unfold it to see its trials)",
            soft_wrap=True,
        )
    _print_store(console, outcome)


def _print_nodes(console: Console, trials: Sequence[Mapping[str, Any]]) -> None:
    """Print which node has trained clients of which trials, if there were several."""
    by_node: dict[str, list[int]] = {}
    for trial in sorted(trials, key=lambda trial: trial["index"]):
        for node in trial.get("nodes", ()):  # which earlier releases did not record
            by_node.setdefault(node, []).append(trial["index"])
    if len(by_node) > 1:
        lines = (f"{node}: {', '.join(map(str, by_node[node]))}" for node in sorted(by_node))
        console.print(f"trials by node: {'; '.join(lines)}", soft_wrap=True)


def _trial_table(
    title: str, keys: Sequence[str], metric: str, trials: Sequence[Mapping[str, Any]]
) -> Table:
    """One row per trial; `keys` are the swept configuration keys."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    swept = [short_key(key) for key in keys]
    scored = [metric] * (metric != "test/accuracy")  # accuracy has a column in any case
    for heading in (
        "#",
        "method",
        *swept,
        *scored,
        "accuracy",
        "best",
        "upload",
        "rounds",
        "seconds",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for trial in trials:
        table.add_row(
            str(trial["index"]),
            trial["method"],
            *(plain_value(trial["params"].get(key)) for key in keys),
            *(_score(trial) for _ in scored),
            percent(trial["test_accuracy"]),
            percent(trial["best_test_accuracy"]),
            size(trial["uplink_bytes"]),
            str(trial["rounds"]),
            f"{trial['seconds']:.1f}",
        )
    return table


def _score(trial: Mapping[str, Any]) -> str:
    return f"{trial['score']:.4g}" if is_finite(trial["score"]) else "diverged"


def _print_store(console: Console, results: Mapping[str, Any]) -> None:
    """Print where the runs are; results: of an experiment or a sweep."""
    uri, missing = results["tracking_uri"], results["not_in_mlflow"]
    if missing is not None:
        where = f"is in {missing}" if missing else "is lost"
        console.print(f"not everything is in MLflow at {uri}: the rest {where}", soft_wrap=True)
        return
    if uri is None:
        console.print("tracking is off (tracking.uri=null)")
        return
    is_server = uri.startswith("http")
    viewer = (
        f"a browser at {uri}" if is_server else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    )
    console.print(f"runs are in {uri}; compare them with\n  {viewer}", soft_wrap=True)
