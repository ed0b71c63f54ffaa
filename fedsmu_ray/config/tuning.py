"""The keys of `tune`: a sweep around an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from fedsmu_ray.config.numbers import Seed
from fedsmu_ray.config.paths import FolderPath
from fedsmu_ray.models.base import Positive
from fedsmu_ray.objectives.metrics import Direction
from fedsmu_ray.tracking.metrics import direction_of


@dataclass(frozen=True)
class TuneConfig:
    """A sweep: every combination of the grids, `samples` times, and the baselines."""

    metric: Annotated[
        str | Annotated[tuple[str, ...], Field(min_length=2)],
        Field(
            description="metric by which trials are compared, or target/T/uplink_bytes "
            "(total_bytes, rounds, seconds) for a T of federation.targets; its default is "
            "val/... with data.validation, and the loss of a task without accuracy. Several, as "
            "[test/accuracy, comm/uplink_bytes]: their Pareto front is told, and the first one "
            "ranks trials"
        ),
    ] = "test/accuracy"
    mode: Annotated[
        Direction | None,
        Field(
            description="whether a larger or a smaller value is better; null: as the metric has it"
        ),
    ] = None
    samples: Annotated[
        Positive,
        Field(
            description="repetitions of the grid with new random values; random, optuna: number of "
            "trials"
        ),
    ] = 1
    search: Annotated[
        Literal["grid", "random", "optuna"],
        Field(description="how trials are chosen from tune.space"),
    ] = "grid"
    seeds: Annotated[
        Positive | Annotated[tuple[Seed, ...], Field(min_length=1)],
        Field(
            description="seeds of every setting: how many, from `seed` on, or a list; results are "
            "means over them"
        ),
    ] = 1
    scheduler: Annotated[
        Literal["none", "asha", "median", "hyperband"],
        Field(
            description="what stops the worst trials, and those that diverge, early: ASHA, the "
            "median rule, or HyperBand, whose trials wait for each other"
        ),
    ] = "none"
    concurrent: Annotated[
        Positive | None,
        Field(description="trials at the same time; null: as many as the resources allow"),
    ] = None
    storage: Annotated[
        FolderPath,
        Field(description="path or URI for sweeps, for --resume; on a cluster seen by all nodes"),
    ] = "fedsmu_runs"
    space: Annotated[
        Mapping[str, Any],
        Field(
            description="dotted key: a list or {grid: [...]}, {choice: [...]}, or {uniform or "
            "loguniform: [low, high]}"
        ),
    ] = field(default_factory=dict)
    baselines: Annotated[
        tuple[Mapping[str, Any], ...],
        Field(description="further trials, each a mapping of dotted keys to values"),
    ] = ()

    compare_to: Annotated[
        str | None,
        Field(
            description="method of the baseline that all are compared with, seed by seed; null: "
            "the first baseline"
        ),
    ] = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics by which trials are compared."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def primary(self) -> str:
        """The metric that ranks trials: the only or the first one."""
        return self.metrics[0]

    @property
    def direction(self) -> Direction:
        """The direction in which the primary metric improves."""
        return direction_of(self.primary)
