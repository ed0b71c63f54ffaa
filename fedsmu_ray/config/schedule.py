"""The keys of `local.schedule` and `federation.server_schedule`: a rate over the rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.config.unread import unread_keys
from fedsmu_ray.models.base import Positive

# The keys that each kind reads, beside `warmup`.
READ: dict[str, tuple[str, ...]] = {
    "constant": (),
    "step": ("factor", "every"),
    "exponential": ("factor",),
    "linear": ("final",),
    "cosine": ("final",),
}


@dataclass(frozen=True)
class ScheduleConfig:
    """A rate over the rounds, as a factor of the configured one."""

    kind: Annotated[
        Literal["constant", "step", "exponential", "linear", "cosine"],
        Field(
            description="how the rate falls: not at all; by `factor` after every `every` rounds "
            "(step) or every one (exponential); or towards `final`, on a line or half a cosine"
        ),
    ] = "constant"
    factor: Annotated[
        float, Field(gt=0, le=1, description="factor between rates (step, exponential)")
    ] = 1.0
    every: Annotated[Positive, Field(description="rounds with the same rate (step)")] = 1
    final: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of the rate that is left after the last round (linear, cosine)",
        ),
    ] = 0.0
    warmup: Annotated[
        int,
        Field(ge=0, description="rounds in which the rate first grows linearly to its whole value"),
    ] = 0

    @property
    def is_set(self) -> bool:
        """Whether the rate is not the same in all rounds."""
        return self.kind != "constant" or self.warmup > 0

    @property
    def depends_on_rounds(self) -> bool:
        """Whether the rate of a round depends on how many there are."""
        return self.kind in ("linear", "cosine")


def check_schedule(key: str, schedule: ScheduleConfig, rounds: int) -> Iterator[str]:
    """A problem for each key that the kind does not read, and for a warm-up without an end."""
    yield from unread_keys(key, schedule, "kind", READ)
    if "factor" in READ[schedule.kind] and schedule.factor == 1:
        yield f"{key}.factor = 1: the rate would stay as it is; lower it, or remove {key}"
    if schedule.warmup >= rounds:
        yield (
            f"{key}.warmup = {schedule.warmup}: with federation.rounds = {rounds} the rate would "
            "never get to its whole value; lower it"
        )
