"""Rates over the rounds (`local.schedule`, `federation.server_schedule`)."""

from __future__ import annotations

from math import cos, pi

from fedsmu_ray.config.schedule import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, round: int, rounds: int) -> float:
    """The factor of the rate in a round (from 1) of `rounds`, a function of these alone.

    With W rounds of warm-up it is t / W in round t of them. Then, with u = t - 1 - W rounds behind
    and T = rounds - W in all:

        constant      1
        step          factor^floor(u / every)
        exponential   factor^u
        linear        1 - (1 - final) u / T
        cosine        final + (1 - final) (1 + cos(pi u / T)) / 2

    (I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, without restarts). So the last round still has
    a rate, as with PyTorch's CosineAnnealingLR.
    """
    if round <= schedule.warmup:
        return round / schedule.warmup
    behind, left = round - 1 - schedule.warmup, 1 - schedule.final
    share = behind / (rounds - schedule.warmup)
    match schedule.kind:
        case "step":
            return float(schedule.factor ** (behind // schedule.every))
        case "exponential":
            return float(schedule.factor**behind)
        case "linear":
            return 1 - left * share
        case "cosine":
            return schedule.final + left * (1 + cos(pi * share)) / 2
    return 1.0
