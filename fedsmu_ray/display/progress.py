"""Progress displays on stderr: bars on a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedsmu_ray.display.formatting import (
    AS_IT_IS,
    dropped_note,
    metric_in_words,
    size,
    value_in_words,
)
from fedsmu_ray.tracking.metrics import direction_of, judged_metric, rank, tracked

if TYPE_CHECKING:
    from typing_extensions import Self

    from fedsmu_ray.config.schema import Config
    from fedsmu_ray.federation.records import Record

LINE_INTERVAL_S = 10.0  # between progress lines of a display that is not live


def print_start(config: Config, enabled: bool) -> None:
    """Say on stderr that a run begins: with large data or Ray, its first round is far away."""
    console = Console(stderr=True, quiet=not enabled, **AS_IT_IS)
    executor = {"ray": ", starting Ray"}.get(config.compute.executor, "")
    console.print(f"{config.name}: loading {config.data.dataset}{executor}", soft_wrap=True)


class _Display:
    """A live progress bar on a terminal; elsewhere, lines at intervals."""

    def __init__(self, enabled: bool) -> None:
        self.console = Console(stderr=True, quiet=not enabled, **AS_IT_IS)
        self.is_live = enabled and self.console.is_terminal
        self.last_line = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:g}/{task.total:g}"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.is_live,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def print_line(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, soft_wrap=True)
        self.last_line = time.monotonic()

    def needs_line(self) -> bool:
        """Whether the display is not live and has printed nothing for an interval."""
        return not self.is_live and time.monotonic() - self.last_line > LINE_INTERVAL_S


class RunProgress(_Display):
    """Progress of one experiment."""

    def __init__(self, config: Config, dim: int, where: str, enabled: bool, done: int = 0) -> None:
        """done: rounds of the checkpoint that the experiment is resumed from."""
        super().__init__(enabled)
        self.rounds, self.note = config.federation.rounds, ""
        self.done = done
        resumed = f", goes on after round {done}" if 0 < done < self.rounds else ""
        self.print_line(
            f"{config.name}: {config.method_name} on {config.data.dataset}, {config.model_name} "
            f"with {dim:,} parameters, {config.data.clients} clients, {config.federation.cohort} "
            f"per round, {self.rounds} rounds{resumed}; {where}"
        )
        self.task = self.progress.add_task("round", total=self.rounds, note="")

    def update(self, record: Record) -> None:
        """Show a finished round."""
        if record.is_evaluated:
            metrics = tracked(record)
            metric = judged_metric(metrics)
            shown = f"{metric_in_words(metric)} {value_in_words(metric, metrics[metric])}"
            loss = f"  loss {record.loss:.3f}" * (not metric.endswith("/loss"))
            self.note = (
                f"{shown}{loss}  upload {size(record.uplink_bytes)}{dropped_note(record.dropped)}"
            )
        self.progress.update(self.task, completed=record.round, note=self.note)
        if self.needs_line() and self.note:
            self.print_line(
                f"round {record.round}/{self.rounds}  {self.note}  {record.seconds:.2f} s/round"
            )

    def end(self, last: int, stopped: str | None) -> None:
        """Say that the experiment has ended before its last round, or was complete already.

        last: the last round that was done. stopped: why there was no other one, if so.
        """
        was = "was complete before, " if last == self.done else ""
        if stopped:
            self.print_line(f"the run {was}stopped after round {last} of {self.rounds}: {stopped}")
        elif was:
            self.print_line(f"the run {was}with all {self.rounds} rounds")


class SweepProgress(_Display):
    """Progress of a sweep: one bar for the sweep, one for every running trial."""

    def __init__(
        self, name: str, trials: int, done: int, rounds: int, where: str, enabled: bool
    ) -> None:
        super().__init__(enabled)
        self.trials, self.done, self.rounds = trials, done, rounds
        self.best: tuple[str, float] | None = None  # a metric and its value
        self.running: dict[str, TaskID] = {}
        self.notes: dict[str, str] = {}
        completed = f", {done} of them completed before" if done else ""
        self.print_line(f"{name}: {trials} trials of up to {rounds} rounds{completed}; {where}")
        self.total = self.progress.add_task(
            "trials", total=trials, completed=done, note="starting actors"
        )

    def start(self, trial: str) -> None:
        """Show a trial as running."""
        if trial not in self.running:
            self.running[trial] = self.progress.add_task(f"  {trial}", total=self.rounds, note="")

    def update(self, trial: str, round: int, metric: str, value: float) -> None:
        """Show an evaluated round of a trial, by a metric and its value."""
        self.start(trial)
        shown = value_in_words(metric, value)
        self.notes[trial] = f"{trial}: round {round}/{self.rounds}, {shown}"
        self.progress.update(self.running[trial], completed=round, note=shown)
        self._update_total()
        if self.needs_line():
            running = "; ".join(self.notes.values())
            self.print_line(f"{self.done}/{self.trials} trials done; running: {running}")

    def finish(self, trial: str, line: str, metric: str = "", value: float | None = None) -> None:
        """Show how a trial ended, and its final value of a metric, unless it failed."""
        self.done += 1
        self.notes.pop(trial, None)
        if trial in self.running:
            self.progress.remove_task(self.running.pop(trial))
        if value is not None:
            self.best = min(
                (metric, value),
                self.best or (metric, value),
                key=lambda each: rank(each[1], direction_of(metric)),
            )
        self._update_total()
        self.print_line(f"[{self.done}/{self.trials}] {trial}: {line}")

    def _update_total(self) -> None:
        note = f"best {value_in_words(*self.best)}" if self.best else ""
        self.progress.update(self.total, completed=self.done, note=note)
