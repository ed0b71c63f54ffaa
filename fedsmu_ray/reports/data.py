"""What a report is made of: settings, evaluated rounds, and what reproduces them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsmu_ray.tracking.metrics import ACCURACIES, is_finite, is_share

SETS = {"test": "test", "val": "validation"}  # by the beginning of a metric's name
MAX_SHOWN = 8  # settings in a figure, unless more methods are compared

Row = Mapping[str, Any]
History = Mapping[str, Sequence[Any]]  # columns of evaluated rounds: `round`, and metrics by name


@dataclass(frozen=True)
class Report:
    """A sweep, or runs of an experiment in the tracker, that are to be compared."""

    name: str
    source: str  # where the results are: a folder, or a run or experiment of a tracker
    metric: str  # by which the settings are ranked
    settings: Sequence[Row]  # the best first, as in `settings` of a sweep's results.json
    findings: Sequence[Row] = ()  # one for each target, likewise
    trials: Sequence[Row] = ()  # with a result, by index, likewise
    histories: Mapping[int, History] = field(default_factory=dict)  # by the trials' indexes
    no_result: Sequence[Row] = ()  # trials that have failed or diverged: name, status, error
    versions: Mapping[str, str] = field(default_factory=dict)  # of the software, by name
    facts: Mapping[str, str] = field(default_factory=dict)  # further lines about where it is from
    recipe: str = ""  # the YAML file that runs it again

    @property
    def accuracy(self) -> str:
        """The metric of accuracy that is shown: the one of the ranking, or one that there is.

        The metric of the ranking for a task without accuracy.
        """
        if self.metric in ACCURACIES:
            return self.metric
        other = ACCURACIES[-1] if not self.has(self.metric) else self.metric
        return next((name for name in ACCURACIES if self.has(name)), other)

    @property
    def label(self) -> str:
        """What it is called, such as `test accuracy (%)`."""
        if self.accuracy in ACCURACIES:
            return f"{self.set_name} accuracy (%)"
        return f"{self.accuracy} (%)" if is_share(self.accuracy) else self.accuracy

    @property
    def factor(self) -> int:
        """By what it is multiplied to be shown."""
        return 100 if is_share(self.accuracy) else 1

    @property
    def set_name(self) -> str:
        """The data that accuracy was measured on: `test` or `validation`."""
        return SETS.get(self.accuracy.partition("/")[0], "training")

    def has(self, metric: str) -> bool:
        """Whether a round of a trial has a finite value of a metric."""
        columns = (history.get(metric, ()) for history in self.histories.values())
        return any(is_finite(value) for column in columns for value in column)

    def methods(self) -> list[str]:
        """The methods, that of the best setting first."""
        return list(dict.fromkeys(row["method"] for row in self.settings))

    def base(self) -> str | None:
        """The name of the setting that the others are compared with, if they are."""
        found = (row["difference"]["to"] for row in self.settings if row.get("difference"))
        return next(found, None)

    def shown(self) -> list[Row]:
        """The settings that figures show: of each method the best one, what is compared with, then
        the best others; the best first.
        """
        first = {row["method"]: i for i, row in reversed([*enumerate(self.settings)])}
        base = [i for i, row in enumerate(self.settings) if row["name"] == self.base()]
        wanted = [*sorted(first.values()), *base, *range(len(self.settings))]
        limit = max(MAX_SHOWN, len(first))
        return [self.settings[i] for i in sorted(list(dict.fromkeys(wanted))[:limit])]

    def seeds(self) -> list[int]:
        """How many trials the settings have, without repetition."""
        return sorted({len(row["trials"]) for row in self.settings})
