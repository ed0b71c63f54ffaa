"""What a reader of a report has to know of its results, in words: what is missing, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsmu_ray.reports.curves import ROUND
from fedsmu_ray.reports.data import Report, Row
from fedsmu_ray.tracking.metrics import is_target

MAX_NAMED = 10


def notes(report: Report) -> list[str]:
    """The notes, one a line."""
    if not report.settings:
        return ["No trial has a result: there is nothing to draw.", *_without_result(report)]
    return [*_without_result(report), *_about_results(report)]


def _without_result(report: Report) -> Iterator[str]:
    for status in ("diverged", "failed"):
        ended = [row for row in report.no_result if row["status"] == status]
        for row in ended[:MAX_NAMED]:
            yield f"{row['name']} has {status}: {row['error']}"
        if len(ended) > MAX_NAMED:
            yield f"{len(ended) - MAX_NAMED} more trials have {status}."


def _about_results(report: Report) -> Iterator[str]:
    unscored = [row["name"] for row in report.settings if row["score"] is None]
    if unscored and is_target(report.metric):
        yield f"{_named(unscored)} did not reach the target with all seeds, and come last."
    elif unscored:
        yield (
            f"A trial of {_named(unscored)} has diverged, so there is no mean of {report.metric}."
        )
    if uneven := _uneven(report):
        yield (
            f"Seeds of {_named(uneven)} have ended after different numbers of rounds: curves of a "
            "setting end with the first of its seeds, and its other figures are means over the "
            "last round of each."
        )
    unknown = [t for t in report.trials if not report.histories.get(t["index"], {}).get(ROUND)]
    if unknown:
        yield (
            f"{len(unknown)} of {len(report.trials)} trials have no history of their rounds, which "
            "earlier releases did not record: they are missing in the figures."
        )
    if not report.findings:
        yield (
            "No common accuracy is reached with all seeds by a setting of each method, so there "
            "are no bytes and rounds to a target."
        )
    if report.seeds() == [1]:
        yield "Each setting has one seed: there are no intervals and no tests."
    yield _dropped(report.trials)
    if retried := sum(trial.get("retried") or 0 for trial in report.trials):
        yield (
            f"Clients were trained again after a failure, {retried:,} in all, which changes no "
            "result."
        )


def _uneven(report: Report) -> list[str]:
    """The settings whose seeds have different last rounds."""
    last = {trial["index"]: trial.get("rounds") for trial in report.trials}
    return [row["name"] for row in report.settings if len({last[i] for i in row["trials"]}) > 1]


def _named(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return "; ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _dropped(trials: Sequence[Row]) -> str:
    counts = [trial.get("dropped") for trial in trials]
    if None in counts:
        return "How many uploads are missing is not known of all trials."
    total, some = sum(count or 0 for count in counts), sum(1 for count in counts if count)
    if not total:
        return "No upload is missing: every sampled client took part in its round."
    return (
        f"{total:,} upload{'s are' if total > 1 else ' is'} missing in {some} of {len(trials)} "
        "trials: of clients that were dropped after their retries, or by federation.dropout."
    )
