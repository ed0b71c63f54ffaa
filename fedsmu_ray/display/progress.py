"""What a person sees: one progress display on stderr, then tables on stdout.

On a terminal the display is live; piped to a file it is a line now and then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedsmu_ray.config.validation import Config
from fedsmu_ray.federation.rounds import Record

LINE_EVERY_S = 10.0  # between progress lines of a display that is not live


def stdout() -> Console:
    """Results for a person: as wide as the terminal, or wide enough for any table when piped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def size(nbytes: float) -> str:
    """Bytes in decimal units, as network and paper figures use them."""
    power = min(int(math.log(max(nbytes, 1), 1000) + 1e-9), 4)
    return f"{nbytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def missing(dropped: int) -> str:
    """What to say of clients that were sampled and did not answer; nothing if there are none."""
    return f", {dropped} answer{'s' * (dropped > 1)} missing" if dropped else ""


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


class _Display:
    """A live bar on a terminal; on anything else, lines at intervals."""

    def __init__(self, enabled: bool) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=not enabled)
        self.live = enabled and self.console.is_terminal
        self.spoken = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:g}/{task.total:g}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.live,
        )

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, soft_wrap=True, markup=False)
        self.spoken = time.monotonic()

    def due(self) -> bool:
        """Whether a display that is not live owes its reader a line."""
        return not self.live and time.monotonic() - self.spoken > LINE_EVERY_S


class RunDisplay(_Display):
    """Progress of one experiment."""

    def __init__(self, config: Config, dim: int, where: str, enabled: bool) -> None:
        super().__init__(enabled)
        self.config, self.note = config, ""
        data, federation = config.data, config.federation
        self.say(
            f"{config.name}: {config.method_name} on {data.dataset}, {config.model.name} with {dim:,} parameters, "
            f"{data.clients} clients, {federation.cohort} per round, {federation.rounds} rounds; {where}"
        )
        self.task = self.progress.add_task("round", total=federation.rounds, note="")

    def update(self, record: Record) -> None:
        if record.test_accuracy is not None:
            self.note = (
                f"accuracy {percent(record.test_accuracy)}  loss {record.test_loss:.3f}  "
                f"upload {size(record.uplink_bytes)}{missing(record.dropped)}"
            )
        self.progress.update(self.task, completed=record.round, note=self.note)
        if self.due() and self.note:
            self.say(
                f"round {record.round}/{self.config.federation.rounds}  {self.note}  {record.seconds:.2f} s/round"
            )


class SweepDisplay(_Display):
    """Progress of a sweep: one bar for all of it, one for every running trial."""

    def __init__(
        self, name: str, trials: int, done: int, rounds: int, where: str, enabled: bool
    ) -> None:
        super().__init__(enabled)
        self.trials, self.done, self.rounds = trials, done, rounds
        self.best: float | None = None
        self.running: dict[str, Any] = {}
        self.notes: dict[str, str] = {}
        again = f", {done} of them done before" if done else ""
        self.say(f"{name}: {trials} trials of up to {rounds} rounds{again}; {where}")
        self.total = self.progress.add_task(
            "trials", total=trials, completed=done, note="starting actors"
        )

    def start(self, trial: str) -> None:
        if trial not in self.running:
            self.running[trial] = self.progress.add_task(f"  {trial}", total=self.rounds, note="")

    def update(self, trial: str, round: int, accuracy: float) -> None:
        self.start(trial)
        self.notes[trial] = f"{trial}: round {round}/{self.rounds}, {percent(accuracy)}"
        self.progress.update(self.running[trial], completed=round, note=percent(accuracy))
        self._total()
        if self.due():
            self.say(
                f"{self.done}/{self.trials} trials done; running: " + "; ".join(self.notes.values())
            )

    def finish(self, trial: str, line: str, accuracy: float | None) -> None:
        self.done += 1
        self.notes.pop(trial, None)
        if trial in self.running:
            self.progress.remove_task(self.running.pop(trial))
        if accuracy is not None and (self.best is None or accuracy > self.best):
            self.best = accuracy
        self._total()
        self.say(f"[{self.done}/{self.trials}] {trial}: {line}")

    def _total(self) -> None:
        note = "" if self.best is None else f"best {percent(self.best)}"
        self.progress.update(self.total, completed=self.done, note=note)


def describe(params: Mapping[str, Any]) -> str:
    """Swept parameters in short: the last parts of their keys."""
    return ", ".join(f"{short(key)}={plain(value)}" for key, value in params.items())


def short(key: str) -> str:
    """A key's last part; of algorithm.name and its like, the section."""
    if key.endswith(".name"):
        return key.split(".")[-2]
    return "/".join(part.strip().rsplit(".", 1)[-1] for part in key.split(","))


def plain(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def print_run(summary: Mapping[str, Any], where: str | None) -> None:
    """The outcome of one experiment."""
    console = stdout()
    console.print(
        f"test accuracy {percent(summary['test_accuracy'])} after {summary['rounds']} rounds "
        f"(best {percent(summary['best_test_accuracy'])} in round {summary['best_round']}); "
        f"uploaded {size(summary['uplink_bytes'])}, downloaded {size(summary['downlink_bytes'])}, "
        f"{summary['seconds']:.1f} s{missing(summary['dropped'])}",
        soft_wrap=True,
    )
    console.print(f"model {summary['model_sha256']}", soft_wrap=True)
    _print_store(console, where)


def print_sweep(outcome: Mapping[str, Any], limit: int = 12) -> None:
    """The best trials of a sweep, best first, then what failed and where the runs are."""
    console = stdout()
    trials = sorted(outcome["trials"], key=lambda t: t["score"], reverse=outcome["mode"] == "max")
    keys = list(dict.fromkeys(k for t in trials for k in t["params"] if k != "algorithm.name"))
    table = Table(
        title=f"the best {min(limit, len(trials))} of {len(trials)} trials, by {outcome['metric']}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in (
        "#",
        "method",
        *map(short, keys),
        "accuracy",
        "best",
        "upload",
        "rounds",
        "seconds",
    ):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for trial in trials[:limit]:
        table.add_row(
            str(trial["index"]),
            trial["method"],
            *(plain(trial["params"].get(k)) for k in keys),
            percent(trial["test_accuracy"]),
            percent(trial["best_test_accuracy"]),
            size(trial["uplink_bytes"]),
            str(trial["rounds"]),
            f"{trial['seconds']:.1f}",
        )
    if trials:
        console.print(table)
    for trial in outcome["failed"]:
        console.print(f"failed: {trial['name']}: {trial['error']}", soft_wrap=True, markup=False)
    if outcome["tracking_uri"]:
        console.print(
            f"\nsweep of {outcome['seconds']:.0f} s in experiment '{outcome['experiment']}', run '{outcome['name']}' "
            "(unfold it to see its trials)",
            soft_wrap=True,
        )
    _print_store(console, outcome["tracking_uri"])


def _print_store(console: Console, where: str | None) -> None:
    if where is None:
        console.print("tracking is off (tracking.uri=null)")
        return
    command = (
        f"a browser at {where}"
        if where.startswith("http")
        else f"mlflow ui --backend-store-uri {where}"
    )
    console.print(f"runs are in {where}; compare them with\n  {command}", soft_wrap=True)
