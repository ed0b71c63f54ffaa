"""The tables of a report, and how they are written: CSV, Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from fedsmu_ray.display.formatting import size
from fedsmu_ray.display.settings_table import key_columns
from fedsmu_ray.reports.data import Report, Row
from fedsmu_ray.tracking.metrics import ACCURACIES, METRICS, direction_of, is_finite, rank

NONE = "–"
VALIDATED, TESTED = "val/accuracy", "test accuracy (%)"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "±": r"$\pm$",
    "×": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
}


@dataclass(frozen=True)
class Table:
    """A table of text, and the numbers behind it."""

    name: str  # of its files
    title: str
    caption: str
    columns: Mapping[str, Sequence[str]]  # the cells by heading; all of the same length
    data: Sequence[Mapping[str, Any]]  # the rows of the CSV
    text_columns: Sequence[str] = ("method",)  # aligned left, others right
    best: Mapping[str, int] = field(default_factory=dict)  # heading: row of the best value

    def rows(self) -> list[tuple[str, ...]]:
        """The cells by row."""
        return list(zip(*self.columns.values(), strict=True))

    def is_best(self, heading: str, row: int) -> bool:
        """Whether a cell has the best value of its column."""
        return self.best.get(heading) == row


def settings(report: Report) -> Table:
    """The settings with their results, the best first."""
    rows, name, factor = report.settings, report.label, report.factor
    keys = key_columns(rows)
    columns = {key: [NONE if c == "-" else c for c in cells] for key, cells in keys.items()}
    columns["n"] = [str(len(row["trials"])) for row in rows]
    if report.metric not in ACCURACIES and report.metric != name:
        columns[report.metric] = [_interval(row["score"], 1, 4) for row in rows]
    if rows and "pareto" in rows[0]:
        columns["Pareto front"] = ["yes" if row["pareto"] else NONE for row in rows]
    stats = [row.get(_field(report)) for row in rows]
    columns[name] = [_interval(each, factor, 2 if factor > 1 else 4) for each in stats]
    if report.accuracy == VALIDATED:
        columns[TESTED] = [_interval(row.get("test_accuracy"), 100, 2) for row in rows]
    columns["uploaded"] = [_size(row["uplink_bytes"]) for row in rows]
    columns["downloaded"] = [_size(row["downlink_bytes"]) for row in rows]
    if report.base():
        factor = 100 if report.metric in ACCURACIES else 1
        columns["difference"] = [_difference(row, factor) for row in rows]
        columns["p"] = [_p_value(row) for row in rows]
    caption = f"Settings, ranked by {report.metric}: mean ± half the 95 % interval (t) over n seeds"
    if base := report.base():
        unit = " in percentage points" if report.metric in ACCURACIES else ""
        caption += (
            f"; difference of {report.metric}{unit} to {base}, paired by seed, with the p-value of "
            "a two-sided t-test, not corrected for the number of tests"
        )
    if report.accuracy == VALIDATED:
        caption += (
            "; test accuracy of the best setting of each method, which was chosen on the "
            "validation samples"
        )
    best: dict[str, int] = {}
    if len(rows) > 1:
        best |= _best(name, [s and rank(s["mean"], direction_of(report.accuracy)) for s in stats])
        best |= _best("uploaded", [_mean(row["uplink_bytes"]) for row in rows])
    data = [_setting_data(row) for row in rows]
    return Table("settings", "Settings", f"{caption}.", columns, data, ("method",), best)


def _field(report: Report) -> str:
    """The key of a setting's accuracy, for its metric."""
    return next((m.field for m in METRICS if m.name == report.accuracy), "test_accuracy")


def _setting_data(row: Row) -> dict[str, Any]:
    stats = {key: value for key, value in row.items() if isinstance(value, Mapping)}
    del stats["params"], stats["values"]
    stats.pop("objectives", None)
    difference = stats.pop("difference", {})
    return {
        "setting": row["name"],
        "method": row["method"],
        **row["values"],
        "n": len(row["trials"]),
        "diverged": row["diverged"],
        **({"pareto": row["pareto"]} if "pareto" in row else {}),
        **{f"{key}_{part}": each.get(part) for key, each in stats.items() for part in PARTS},
        "compared_to": difference.get("to"),
        "difference": difference.get("mean"),
        "difference_ci95": difference.get("ci95"),
        "p": difference.get("p"),
    }


PARTS = ("mean", "std", "ci95")


def to_target(report: Report) -> Table:
    """What every setting needs to reach the targets; without rows if there are no targets."""
    listed = [
        (finding["accuracy"], row, row["targets"][i])
        for i, finding in enumerate(report.findings)
        for _, _, row in sorted(
            (_least(row["targets"][i]), number, row) for number, row in enumerate(report.settings)
        )
    ]
    least: dict[float, float] = {}
    for target, _, needs in listed:
        least[target] = min(least.get(target, _least(needs)), _least(needs))
    columns = {
        "setting": [row["name"] for _, row, _ in listed],
        "target": [f"{100 * target:g} %" for target, _, _ in listed],
        "reached": [f"{needs['reached']} of {needs['of']}" for _, _, needs in listed],
        "rounds": [_interval(needs["rounds"], 1, 1) for _, _, needs in listed],
        "uploaded": [_size(needs["uplink_bytes"]) for _, _, needs in listed],
        "times the least": [
            f"{_least(needs) / least[target]:.3g}" if needs["uplink_bytes"] else NONE
            for target, _, needs in listed
        ],
        "up and down": [_size(needs["total_bytes"]) for _, _, needs in listed],
    }
    caption = (
        f"Rounds and bytes up to the first evaluation with the target accuracy on the "
        f"{report.set_name} set, means over seeds (rounds ± half the 95 % interval, t); of "
        "settings that reach it with all seeds."
    )
    data = [_needs_data(target, row, needs) for target, row, needs in listed]
    return Table("to_target", "Rounds and bytes to a target", caption, columns, data, ("setting",))


def _least(needs: Row) -> float:
    return float(needs["uplink_bytes"]["mean"]) if needs["uplink_bytes"] else float("inf")


def _needs_data(target: float, row: Row, needs: Row) -> dict[str, Any]:
    figures = {key: needs[key] or {} for key in ("rounds", "uplink_bytes", "total_bytes")}
    return {
        "setting": row["name"],
        "target": target,
        "reached": needs["reached"],
        "of": needs["of"],
        **{f"{key}_{part}": each.get(part) for key, each in figures.items() for part in PARTS},
    }


def trials(report: Report) -> Table:
    """Every trial with the digest of its model."""
    names = {index: row["name"] for row in report.settings for index in row["trials"]}
    rows = [*report.trials, *report.no_result]
    columns = {
        "trial": [str(row["index"]) for row in rows],
        "setting": [names.get(row["index"], row["name"]) for row in rows],
        "seed": [str(row.get("params", {}).get("seed", NONE)) for row in rows],
        "status": [str(row.get("status", NONE)) for row in rows],
        report.label: [_share(row.get(_field(report)), report.factor) for row in rows],
        "rounds": [str(row.get("rounds", NONE)) for row in rows],
        "missing uploads": [str(row.get("dropped", NONE)) for row in rows],
        "retries": [str(row.get("retried", NONE)) for row in rows],
        "seconds": [_number(row.get("seconds")) for row in rows],
        "model SHA-256": [(row.get("model_sha256") or NONE)[:12] for row in rows],
    }
    left = ("history", "values", "params", "nodes", "event")
    data = [
        {"setting": names.get(row["index"]), "seed": row.get("params", {}).get("seed")}
        | {key: value for key, value in row.items() if key not in left}
        for row in rows
    ]
    caption = "All trials; the digest is that of the final model, where training was not stopped."
    return Table("trials", "Trials", caption, columns, data, ("setting", "status"))


def _best(heading: str, values: Sequence[float | None]) -> dict[str, int]:
    known = [(value, row) for row, value in enumerate(values) if value is not None]
    return {heading: min(known)[1]} if known else {}


def _mean(stats: Row | None) -> float | None:
    return stats["mean"] if stats else None


def _size(stats: Row | None) -> str:
    return size(stats["mean"]) if stats else NONE


def _interval(stats: Row | None, factor: float, digits: int) -> str:
    if not stats:
        return NONE
    mean = f"{factor * stats['mean']:.{digits}f}"
    return mean if stats["ci95"] is None else f"{mean} ± {factor * stats['ci95']:.{digits}f}"


def _difference(row: Row, factor: float) -> str:
    mean = (row["difference"] or {}).get("mean")
    return NONE if mean is None else f"{factor * mean:+.2f}".replace("-", "−")


def _p_value(row: Row) -> str:
    p = (row["difference"] or {}).get("p")
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _share(value: Any, factor: int = 100) -> str:
    return f"{factor * value:.{2 if factor > 1 else 4}f}" if is_finite(value) else NONE


def _number(value: Any) -> str:
    return f"{value:.1f}" if is_finite(value) else NONE


# Writing


def to_csv(table: Table) -> str:
    """The numbers behind a table, unrounded."""
    columns = dict.fromkeys(key for row in table.data for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.data)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""

    def cell(text: str) -> str:
        return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text).replace("\n", " ")

    marks = ["---" if name in table.text_columns else "--:" for name in table.columns]
    lines = [[cell(name) for name in table.columns], marks]
    for number, row in enumerate(table.rows()):
        named = zip(table.columns, row, strict=True)
        lines.append(
            [
                f"**{cell(text)}**" if table.is_best(name, number) else cell(text)
                for name, text in named
            ]
        )
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table.caption}\n\n{body}\n"


def to_latex(table: Table) -> str:
    """A table for LaTeX with the package booktabs."""
    kinds = "".join("l" if name in table.text_columns else "r" for name in table.columns)
    rows = []
    for number, row in enumerate(table.rows()):
        named = zip(table.columns, row, strict=True)
        rows.append(
            [
                rf"\textbf{{{latex(text)}}}" if table.is_best(name, number) else latex(text)
                for name, text in named
            ]
        )
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex(table.caption)}}}",
            rf"\label{{tab:{table.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            rf"{' & '.join(map(latex, table.columns))} \\",
            r"\midrule",
            *(rf"{' & '.join(row)} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def latex(text: str) -> str:
    """Text in which LaTeX finds no commands."""
    return "".join(_LATEX.get(mark, mark) for mark in text.replace("\n", " "))


def to_html(table: Table) -> str:
    """The element `table`; its caption is left to the page."""

    def cells(tag: str, row: Iterable[str], number: int = -1) -> str:
        made = []
        for name, text in zip(table.columns, row, strict=True):
            kind = ' class="text"' if name in table.text_columns else ""
            inner = escape(text)
            inner = f"<strong>{inner}</strong>" if table.is_best(name, number) else inner
            made.append(f"<{tag}{kind}>{inner}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(cells("td", row, number) for number, row in enumerate(table.rows()))
    head = cells("th", table.columns)
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
