"""The section `local`: what a client does in one round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from fedsmu_ray.config.numbers import Drawn, NonNegative, PositiveNumber
from fedsmu_ray.config.optimizer import OptimizerConfig
from fedsmu_ray.config.schedule import ScheduleConfig
from fedsmu_ray.models.base import Positive


@dataclass(frozen=True)
class LocalConfig:
    """Local training of a client in one round."""

    epochs: Annotated[
        Positive | Drawn | None,
        Field(
            description="passes over the client's samples; {uniform: [low, high]}: drawn for each "
            "client and round from the seed, ends included; its default with local.steps is null"
        ),
    ] = 5
    steps: Annotated[
        Positive | Drawn | None,
        Field(
            description="mini-batches instead of epochs, which follow each other until there are "
            "so many; may be drawn likewise"
        ),
    ] = None
    batch_size: Annotated[Positive, Field(description="samples of a mini-batch")] = 50
    micro_batch_size: Annotated[
        Positive | None,
        Field(
            description="samples whose gradient is computed at once, null: all of the mini-batch; "
            "the gradients of a mini-batch are added up (gradient accumulation), which needs less "
            "memory, and clients are trained one by one"
        ),
    ] = None
    lr: Annotated[NonNegative, Field(description="learning rate")] = 0.1
    weight_decay: Annotated[
        NonNegative, Field(description="weight decay; its default is that of algorithm.profile")
    ] = 0.0
    clip_norm: Annotated[
        PositiveNumber | None,
        Field(
            description="largest norm of a gradient, null: not clipped; its default is that of "
            "algorithm.profile"
        ),
    ] = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
