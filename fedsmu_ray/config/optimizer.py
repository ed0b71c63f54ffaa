"""The keys of `local.optimizer`: what a local step does with its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.algorithms.base import Beta
from fedsmu_ray.config.numbers import PositiveNumber
from fedsmu_ray.config.unread import unread_keys

# The keys that each optimizer reads, and the default of beta2.
READ: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adam": ("beta1", "beta2", "epsilon"),
    "adamw": ("beta1", "beta2", "epsilon"),
    "lion": ("beta1", "beta2"),
}
BETA2 = {"adam": 0.999, "adamw": 0.999, "lion": 0.99}


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer of local training; its state is new in every round and never leaves it."""

    name: Annotated[
        Literal["sgd", "adam", "adamw", "lion"],
        Field(
            description="optimizer of local training, whose state is new in every round; "
            "local.weight_decay is part of the gradient with sgd and adam, and decoupled with "
            "adamw and lion"
        ),
    ] = "sgd"
    momentum: Annotated[Beta, Field(description="momentum of sgd, as in torch.optim.SGD")] = 0.0
    nesterov: Annotated[bool, Field(description="Nesterov's momentum (sgd)")] = False
    beta1: Annotated[
        Beta, Field(description="adam, adamw: decay of the mean; lion: weight in the sign")
    ] = 0.9
    beta2: Annotated[
        Beta | None,
        Field(
            description="adam, adamw: decay of the mean square, by default 0.999; lion: decay of "
            "the momentum, by default 0.99"
        ),
    ] = None
    epsilon: Annotated[
        PositiveNumber, Field(description="added to the root of the mean square (adam, adamw)")
    ] = 1e-8

    @property
    def is_plain(self) -> bool:
        """Whether it is SGD without momentum."""
        return self.name == "sgd" and not self.momentum


def check_optimizer(optimizer: OptimizerConfig) -> Iterator[str]:
    """A problem for each key that the optimizer does not read."""
    yield from unread_keys("local.optimizer", optimizer, "name", READ)
    if optimizer.name == "sgd" and optimizer.nesterov and not optimizer.momentum:
        yield (
            "local.optimizer.nesterov = true: there is no momentum; set it, as in "
            "local.optimizer.momentum=0.9, or remove nesterov"
        )
