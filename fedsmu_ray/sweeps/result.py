"""What `sweep` returns: the outcome as `tune --json` prints it, and tables of it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsmu_ray.display.settings_table import in_words, settings_columns
from fedsmu_ray.reports import charts, static
from fedsmu_ray.reports.data import Report
from fedsmu_ray.sweeps.outcome import history_rows, result_rows
from fedsmu_ray.sweeps.settings import Row

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class SweepResult(dict[str, Any]):
    """The outcome of a sweep: a mapping with what `tune --json` prints."""

    def __init__(self, outcome: Mapping[str, Any], ended: Mapping[int, Row]) -> None:
        """ended: what the folder of the sweep has of its trials (`SweepFolder.ended`)."""
        super().__init__(outcome)
        self._rows = [{**ended[trial["index"]], **trial} for trial in outcome["trials"]]

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial of the best setting; None if no trial has a score."""
        best: dict[str, Any] | None = self["best"]
        return best

    @property
    def front(self) -> list[dict[str, Any]]:
        """The settings of the Pareto front, if `tune.metric` has several metrics; best first."""
        return [row for row in self["settings"] if row.get("pareto")]

    def frame(self) -> pd.DataFrame:
        """The trials as a table, a row each, as in results.csv; its index: that of the trial."""
        import pandas as pd

        targets = [target["accuracy"] for target in self["findings"]]
        rows = list(result_rows(self._rows, targets))
        return pd.DataFrame(rows, columns=None if rows else ["index"]).set_index("index")

    def history(self) -> pd.DataFrame:
        """The evaluated rounds of all trials, as in history.csv; its index: trial and round."""
        import pandas as pd

        rows, index = list(history_rows(self._rows)), ["index", "round"]
        return pd.DataFrame(rows, columns=None if rows else index).set_index(index)

    def settings(self) -> pd.DataFrame:
        """The settings, the best first, as the end of `tune` prints them."""
        import pandas as pd

        return pd.DataFrame(settings_columns(self["settings"], self["metric"]))

    def plot(self) -> Figure:
        """Accuracy over rounds, uploaded bytes and all bytes, with a line for each setting.

        It is the figure of the sweep's report; savefig writes it. Raises ValueError if no trial has
        an evaluated round.
        """
        histories = {row["index"]: row.get("history") or {} for row in self._rows}
        report = Report(
            self["name"], self["folder"], self["metric"], self["settings"], histories=histories
        )
        chart = charts.accuracy(report)
        if chart is None:
            raise ValueError(f"sweep {self['name']}: no trial has an evaluated round to plot")
        return static.figure(chart)

    def __repr__(self) -> str:
        count = len(self["settings"])
        text = "; ".join(map(in_words, self["findings"])) or "no finding"
        return f"SweepResult({self['name']}: {count} settings, {len(self._rows)} trials: {text})"

    def _repr_html_(self) -> str:
        """For a notebook: the settings as a table, and the finding in words."""
        if not self["settings"]:
            return f"<p>{html.escape(repr(self))}</p>"
        words = "".join(f"<pre>{html.escape(in_words(each))}</pre>" for each in self["findings"])
        return f"{self.settings().to_html(index=False)}{words}"
