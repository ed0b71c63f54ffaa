"""Results of experiments and sweeps on stdout."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from fedsmu_ray.display.formatting import dropped_note, size, stdout, value_in_words
from fedsmu_ray.display.settings_table import in_words, print_settings
from fedsmu_ray.files.run_folders import SWEEP
from fedsmu_ray.tracking.metrics import METRICS, final_judged, is_finite, is_target


def run_in_words(summary: Mapping[str, Any]) -> str:
    """The results of one experiment in a sentence."""
    metric, value = final_judged(summary)
    part, _, name = metric.partition("/")
    best = value_in_words(metric, summary[f"best_{part}_{name}"])
    best = f"best {best} in round {summary['best_round']}"
    if part == "val":
        best = f"on the validation samples {value_in_words(metric, value)}, {best}"
    tested = value_in_words(f"test/{name}", summary[f"test_{name}"])
    others = "".join(
        f", {m.name.partition('/')[2]} {value_in_words(m.name, summary[m.field])}"
        for m in METRICS
        if m.of_task and m.name.startswith("test/") and summary.get(m.field) is not None
    )
    return (
        f"test {name} {tested}{others} after {summary['rounds']} rounds"
        f"{', where it was stopped' if summary.get('stopped') else ''} "
        f"({best}); uploaded {size(summary['uplink_bytes'])}, "
        f"downloaded {size(summary['downlink_bytes'])}, {summary['seconds']:.1f} s"
        f"{dropped_note(summary['dropped'])}{_clients_in_words(summary)}"
    )


def _clients_in_words(summary: Mapping[str, Any]) -> str:
    """The metrics over clients, mean and worst tenth; "" without them."""
    parts = []
    for kind, what in (("", "on what clients hold out"), ("personalised_", "fine-tuned by each")):
        judged = [f"clients/{kind}{value}" for value in ("accuracy", "loss")]
        measured = (name for name in judged if name.replace("/", "_") in summary)
        if metric := next(measured, None):
            field, shown = metric.replace("/", "_"), metric.rpartition("_")[2].split("/")[-1]
            mean, worst = (
                value_in_words(metric, summary[f"{field}{end}"]) for end in ("", "_worst_decile")
            )
            parts.append(f"; {what}: mean {shown} {mean}, worst tenth {worst}")
    return "".join(parts)


def print_run(summary: Mapping[str, Any]) -> None:
    """Print the results of one experiment, and where its run is tracked."""
    console = stdout()
    console.print(run_in_words(summary), soft_wrap=True)
    if not is_finite(summary["test_loss"]):
        console.print(
            f"the model has diverged: test loss {summary['test_loss']}; lower local.lr or the "
            "server's step size",
            soft_wrap=True,
        )
    if stopped := summary.get("stopped"):
        console.print(f"stopped: {stopped}", soft_wrap=True)
    console.print(f"model {summary['model_sha256']}", soft_wrap=True)
    if len(nodes := summary["nodes"]) > 1:
        counts = ", ".join(f"{node} {count}" for node, count in nodes.items())
        console.print(f"clients trained by node: {counts}", soft_wrap=True)
    _print_store(console, summary)


def print_sweep(outcome: Mapping[str, Any], limit: int = 12) -> None:
    """Print the `limit` best settings of a sweep, the finding, what failed, where the runs are."""
    console, metric, settings = stdout(), outcome["metric"], outcome["settings"]
    if settings:
        print_settings(console, settings[:limit], metric, len(settings))
    for finding in outcome["findings"]:
        console.print(f"\n{in_words(finding)}", soft_wrap=True)
    trials = outcome["trials"]
    unscored = [trial["name"] for trial in trials if not is_finite(trial["score"])]
    if unscored and is_target(metric):
        console.print(f"{metric}: not reached by {'; '.join(unscored)}", soft_wrap=True)
    elif unscored:
        console.print(
            f"diverged, with {metric} NaN or infinite: {'; '.join(unscored)}", soft_wrap=True
        )
    for status in ("diverged", "failed"):
        for trial in outcome[status]:
            console.print(f"{status}: {trial['name']}: {trial['error']}", soft_wrap=True)
    if outcome["failed"]:
        again = SWEEP.resume_command(outcome["folder"])
        console.print(f"to run what has failed once more: {again}", soft_wrap=True)
    _print_nodes(console, outcome["trials"])
    if outcome.get("report"):
        console.print(f"the report with figures and tables is {outcome['report']}", soft_wrap=True)
    if outcome.get("model"):
        console.print(f"the model of the best trial is {outcome['model']}", soft_wrap=True)
    if outcome["tracking_uri"]:
        console.print(
            f"\nsweep of {outcome['seconds']:.0f} s in experiment '{outcome['experiment']}', run "
            f"'{outcome['name']}' (unfold it to see its trials)",
            soft_wrap=True,
        )
    _print_store(console, outcome)


def print_unfinished(outcome: Mapping[str, Any], limit: int = 12) -> None:
    """Print what a sweep that was ended before its end has found, and where that is."""
    console, settings, ended = stdout(), outcome["settings"], len(outcome["trials"])
    if settings:
        print_settings(console, settings[:limit], outcome["metric"], len(settings))
    what = "trial has ended; its results are" if ended == 1 else "trials have ended; results are"
    console.print(
        f"{ended} {what} in {outcome['folder']} (results.csv, history.csv)", soft_wrap=True
    )


def _print_nodes(console: Console, trials: Sequence[Mapping[str, Any]]) -> None:
    """Print which node has trained clients of which trials, if there were several."""
    by_node: dict[str, list[int]] = {}
    for trial in sorted(trials, key=lambda trial: trial["index"]):
        for node in trial.get("nodes", ()):  # which earlier releases did not record
            by_node.setdefault(node, []).append(trial["index"])
    if len(by_node) > 1:
        lines = (f"{node}: {', '.join(map(str, by_node[node]))}" for node in sorted(by_node))
        console.print(f"trials by node: {'; '.join(lines)}", soft_wrap=True)


def _print_store(console: Console, results: Mapping[str, Any]) -> None:
    """Print where the runs are; results: of an experiment or a sweep."""
    _print_mlflow(console, results)
    for name, place in results.get("also_tracked", {}).items():
        console.print(f"also tracked with {name}: {place}", soft_wrap=True)


def _print_mlflow(console: Console, results: Mapping[str, Any]) -> None:
    uri, missing = results["tracking_uri"], results["not_in_mlflow"]
    if missing is not None:
        where = f"is in {missing}" if missing else "is lost"
        console.print(f"not everything is in MLflow at {uri}: the rest {where}", soft_wrap=True)
        return
    if uri is None:
        what = "MLflow" if results.get("also_tracked") else "tracking"
        console.print(f"{what} is off (tracking.uri=null)")
        return
    view, is_server = results.get("view"), uri.startswith("http")
    what = "accuracy over uploaded kilobytes, and more" if view else "compare them"
    if is_server:
        viewer = f"{uri}/{view}" if view else f"a browser at {uri}"
    else:
        viewer = f"python -m fedsmu_ray.ui {shlex.quote(uri)}"
    console.print(f"runs are in {uri}; {what} with\n  {viewer}", soft_wrap=True)
