"""When an experiment ends before its last round (`federation.stop`)."""

from __future__ import annotations

from collections.abc import Sequence

from fedsmu_ray.config.schema import Config
from fedsmu_ray.federation.records import Record
from fedsmu_ray.tracking.metrics import direction_of, is_finite, rank, value_of


def stop_reason(config: Config, evaluated: Sequence[Record]) -> str | None:
    """Why an experiment ends at the last of its evaluated rounds; None if it goes on.

    It depends on nothing but the records, so that a resumed run ends where an undisturbed one does.
    """
    federation, stop = config.federation, config.federation.stop
    if not stop.is_set or not evaluated or evaluated[-1].round < stop.min_rounds:
        return None
    name = stop.metric or config.judged
    direction = direction_of(name)
    # What was the last round of a run whose federation.rounds were raised later counts for nothing.
    regular = [r for r in evaluated if r.round % federation.eval_every == 0 or r is evaluated[-1]]
    ranks = [rank(value_of(name, record), direction) for record in regular]
    value = value_of(name, evaluated[-1])
    if stop.target is not None and ranks[-1] <= rank(stop.target, direction):
        return f"{name} = {value:.4g} reaches federation.stop.target = {stop.target:g}"
    best = ranks.index(min(ranks))  # the first one
    if stop.patience is not None and len(ranks) - 1 - best >= stop.patience:
        since = f"since round {regular[best].round}" if is_finite(ranks[best]) else "at all"
        return f"{name} has not improved {since} (federation.stop.patience = {stop.patience})"
    return None
