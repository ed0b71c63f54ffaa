"""The description of a sweep's run: its results as Markdown, with links to the runs of trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsmu_ray.display.settings_table import in_words, settings_columns
from fedsmu_ray.tracking.base import RunStatus, run_link

MAX_LENGTH = (
    4800  # characters, in which a link to a run is shorter than in MLflow, which takes 8000
)
MAX_ERROR = 200  # characters of an error

Row = Mapping[str, Any]


def note(outcome: Mapping[str, Any], status: RunStatus, seed: int) -> str:
    """The results of a sweep as Markdown, the best setting first.

    outcome: see `sweeps.outcome.results`, with the `metric`. seed: of trials that name none.
    Settings for which a tag has no room are counted.
    """
    parts = [_ended(outcome, status)]
    parts += [_paragraph(in_words(finding)) for finding in outcome["findings"]]
    runs = {trial["index"]: trial for trial in outcome["trials"]}
    if rows := outcome["settings"]:
        links = [_links([runs[i] for i in row["trials"]], seed) for row in rows]
        columns = {**settings_columns(rows, outcome["metric"]), "runs (by seed)": links}
        parts.append(_table(columns, MAX_LENGTH - sum(map(len, parts))))
    parts += _failures(outcome, MAX_LENGTH - sum(map(len, parts)))
    return "\n\n".join(parts)


def _ended(outcome: Mapping[str, Any], status: RunStatus) -> str:
    counts = f"{len(outcome['settings'])} settings, {len(outcome['trials'])} trials with a result"
    return f"{counts}; by {outcome['metric']}" + (
        f". The sweep was {'interrupted' if status == 'KILLED' else 'ended by an error'}."
        if status != "FINISHED"
        else "."
    )


def _paragraph(text: str) -> str:
    """Lines as a sentence and a list."""
    first, *others = text.splitlines()
    return "\n".join(
        [f"**{first}**", *([""] if others else []), *(f"- {o.strip()}" for o in others)]
    )


def _links(trials: Sequence[Row], seed: int) -> str:
    return " ".join(run_link(str(t["params"].get("seed", seed)), t["run_id"]) for t in trials)


def _table(columns: Mapping[str, Sequence[str]], length: int) -> str:
    """A table in at most `length` characters, without the last rows if need be."""
    lines = [_line(columns), _line(["---"] * len(columns))]
    total = len(next(iter(columns.values())))
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        line = _line(cells)
        if sum(map(len, lines)) + len(line) > length:
            return "\n".join(lines) + f"\n\nand {total - number} more settings"
        lines.append(line)
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _failures(outcome: Mapping[str, Any], length: int) -> Iterator[str]:
    """The trials without a result, as a list."""
    for status in ("diverged", "failed"):
        for trial in outcome[status]:
            line = f"- {status}: {run_link(trial['name'], trial['run_id'])}: "
            line += " ".join(trial["error"].split())[:MAX_ERROR]
            if (length := length - len(line)) < 0:
                return
            yield line
