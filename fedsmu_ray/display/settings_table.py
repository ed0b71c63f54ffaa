"""The settings of a sweep as a table, or as blocks where the terminal is too narrow for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from fedsmu_ray.display.formatting import plain_value, short_key, size
from fedsmu_ray.tracking.metrics import ACCURACIES, is_finite, is_target, unit_of

NONE = "-"  # of what does not apply
GAP = 2  # between columns
INDENT = "   "  # of the lines of a block after its first one

Row = Mapping[str, Any]  # of a setting, see `sweeps.settings.summarize_settings`


def print_settings(
    console: Console, rows: Sequence[Row], metric: str, total: int | None = None
) -> None:
    """Print settings, the best first; total: of how many they are the best.

    Swept keys and figures that are the same for all of `rows` are left out, except for accuracy and
    upload. Nothing is ever cut.
    """
    columns = settings_columns(rows, metric)
    seeds = _common([str(len(row["trials"])) for row in rows])
    title = f"the best {len(rows)} of {total or len(rows)} settings, by {metric}"
    if seeds != "1":
        title += f" (mean ± 95 % interval of {seeds or 'the'} seeds)"
    console.print(title, style="bold", soft_wrap=True)
    _print_columns(console, columns)
    if objectives := rows[0].get("objectives"):
        names = " and ".join(objectives)
        console.print(
            f"Pareto front of {names}: no setting is better by one and worse by none",
            soft_wrap=True,
        )
    if _has_validation(rows):
        console.print(
            "test accuracy: of the best setting of each method, chosen on the validation samples",
            soft_wrap=True,
        )
    if others := [row["difference"]["to"] for row in rows if row["difference"]]:
        unit = " in percentage points" if metric in ACCURACIES else ""
        console.print(
            f"difference: {metric}{unit}, to {others[0]}, paired by seed; p-values of two-sided "
            "t-tests, not corrected for their number",
            soft_wrap=True,
        )


def settings_columns(rows: Sequence[Row], metric: str) -> dict[str, list[str]]:
    """The cells of the table by heading, without columns in which nothing varies."""
    columns = _columns(rows, metric)
    return {key: cells for key, cells in columns.items() if _is_shown(key, cells)}


def _print_columns(console: Console, columns: Mapping[str, Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    width = sum(max(map(cell_len, (name, *cells))) + GAP for name, cells in columns.items())
    if width - GAP <= console.width:
        console.print(table)
        return
    for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
        named = zip(columns, cells, strict=True)
        parts = [f"{name} {cell}" for name, cell in named if cell != NONE]
        console.print(f"{number}. " + f"\n{INDENT}".join(_wrapped(parts, console.width)))


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts joined to lines of at most `width` less the indent; a part is never broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= width - len(INDENT) - 1:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def _columns(rows: Sequence[Row], metric: str) -> dict[str, list[str]]:
    """The cells of all columns by heading."""
    columns = key_columns(rows)
    if metric not in ACCURACIES:
        columns[metric] = [_score(row, metric) for row in rows]
    columns |= _objectives(rows, metric)
    if _has_validation(rows):
        columns["val accuracy"] = [_percent(row["val_accuracy"]) for row in rows]
        columns["test accuracy"] = [_percent(row["test_accuracy"]) for row in rows]
    elif any(row.get("test_accuracy") for row in rows):
        columns["accuracy"] = [_percent(row["test_accuracy"]) for row in rows]
    for i, target in enumerate(rows[0]["targets"]):
        columns[f"upload to {100 * target['accuracy']:g} %"] = [
            _to_target(row["targets"][i]) for row in rows
        ]
    columns["upload"] = [_size(row["uplink_bytes"]) for row in rows]
    columns["rounds"] = [_mean(row["rounds"]) for row in rows]
    columns["seconds"] = [_mean(row["seconds"], ".1f") for row in rows]
    if any(row["difference"] for row in rows):
        factor = 100 if metric in ACCURACIES else 1
        columns["difference"] = [_difference(row, factor) for row in rows]
    return columns


def _objectives(rows: Sequence[Row], metric: str) -> dict[str, list[str]]:
    """The cells of the further metrics of a sweep that has several, and of their Pareto front."""
    names = [name for name in rows[0].get("objectives", ()) if name != metric]
    if not names:
        return {}
    front = ["yes" if row["pareto"] else NONE for row in rows]
    further = [name for name in names if name not in (*ACCURACIES, "comm/uplink_bytes")]
    return {"Pareto front": front, **{n: [_objective(row, n) for row in rows] for n in further}}


def _objective(row: Row, name: str) -> str:
    stats = row["objectives"][name]
    return _size(stats) if unit_of(name) == "bytes" else _mean(stats, ".4g")


def key_columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The cells of methods and swept keys by heading."""
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    keys = [key for key in keys if key != "algorithm.name"]
    columns = {"method": [row["method"] for row in rows]}
    alike: dict[tuple[str, ...], list[str]] = {}  # keys that are swept together have the same cells
    for key in keys:
        cells = tuple(plain_value(row["values"].get(key)) for row in rows)
        alike.setdefault(cells, []).append(key)
    for cells, names in alike.items():
        heading = short_key(", ".join(names))
        columns[", ".join(names) if heading in columns else heading] = list(cells)
    return columns


def _is_shown(heading: str, cells: Sequence[str]) -> bool:
    is_result = heading.endswith("accuracy") or heading.startswith(("upload", "Pareto"))
    return is_result or len(cells) == 1 or _common(cells) is None


def _has_validation(rows: Sequence[Row]) -> bool:
    return any(row.get("val_accuracy") for row in rows)


def _common(cells: Sequence[str]) -> str | None:
    """The value that all cells have; None if they differ."""
    return cells[0] if len(set(cells)) == 1 else None


def _score(row: Row, metric: str) -> str:
    if row["score"] is not None:
        is_bytes = unit_of(metric) == "bytes"
        return _size(row["score"]) if is_bytes else _interval(row["score"], ".4g")
    if not is_target(metric):
        return "diverged"
    return _reached(row["scored"], len(row["trials"]))


def _percent(stats: Mapping[str, float] | None) -> str:
    return NONE if stats is None else f"{_interval(stats, '.2f', 100)} %"


def _interval(stats: Mapping[str, Any], form: str, factor: float = 1) -> str:
    mean = f"{factor * stats['mean']:{form}}"
    if stats["ci95"] is None:
        return mean
    half = factor * stats["ci95"]
    return f"{mean} ± {half:.0f}" if half >= 100 else f"{mean} ± {half:.2g}"


def _mean(stats: Mapping[str, float] | None, form: str = ".0f") -> str:
    return NONE if stats is None else f"{stats['mean']:{form}}"


def _size(stats: Mapping[str, float] | None) -> str:
    return NONE if stats is None else size(stats["mean"])


def _to_target(needs: Row) -> str:
    if needs["uplink_bytes"]:
        return _size(needs["uplink_bytes"])
    return _reached(needs["reached"], needs["of"])


def _reached(count: int, seeds: int) -> str:
    return "not reached" if seeds == 1 else f"{count} of {seeds} seeds"


def _difference(row: Row, factor: float) -> str:
    """Of the metric to the setting that is compared with, with the p-value of the paired t-test."""
    found = row["difference"]
    if not found or not is_finite(found.get("mean")):
        return NONE
    p = "" if found["p"] is None else f" (p {found['p']:.2g})"
    return f"{factor * found['mean']:+.3g}{p}"


def in_words(finding: Row) -> str:
    """Which method reaches an accuracy with how many bytes (see `sweeps.settings.findings`)."""
    share, found = f"{100 * finding['accuracy']:g} %", finding["methods"]
    missed = ", ".join(finding["missed_by"])
    which = "validation" if finding.get("metric") == "val/accuracy" else "test"
    if not found:
        return f"no method reaches {share} {which} accuracy"
    seeds = max(each["of"] for each in found)
    parts = []
    for each in found:
        times = each["uplink_bytes"]["mean"] / found[0]["uplink_bytes"]["mean"]
        more = f" ({times:.3g} times as much)" if times > 1 else ""
        parts.append(
            f"{each['setting']}: {size(each['uplink_bytes']['mean'])} uploaded in "
            f"{each['rounds']['mean']:.0f} rounds{more}"
        )
    of = f" (means of {seeds} seeds)" if seeds > 1 else ""
    end = f"; not reached by {missed}" if missed else ""
    return f"{share} {which} accuracy{of}{end}\n  " + "\n  ".join(parts)
