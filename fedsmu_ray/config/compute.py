"""The keys of `compute`: where clients are trained, which decides no result but `precision`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.config.numbers import NonNegative, PositiveNumber
from fedsmu_ray.models.base import Positive


@dataclass(frozen=True)
class ExecutorTraits:
    """What an executor can do, for the checks of a configuration."""

    stops_clients: bool  # whether it can end a client task that exceeds its time limit


EXECUTORS = {
    "inline": ExecutorTraits(stops_clients=False),
    "ray": ExecutorTraits(stops_clients=True),
}


@dataclass(frozen=True)
class ComputeConfig:
    """Where clients are trained."""

    executor: Annotated[
        str, Field(description="where client tasks run: in this process, or on Ray actors")
    ] = "ray"
    actors: Annotated[
        Positive | None,
        Field(
            description="client actors; null: as many as fit the cluster (train), 1 per trial "
            "(tune)"
        ),
    ] = None
    cpus_per_actor: Annotated[PositiveNumber, Field(description="CPUs of a client actor")] = 1.0
    gpus_per_actor: Annotated[
        NonNegative,
        Field(
            description="GPUs of a client actor, a fraction or a whole number; 0 trains on the CPU"
        ),
    ] = 0.0
    wait_s: Annotated[
        PositiveNumber,
        Field(
            description="seconds to wait for resources that are in use, or that an autoscaler may "
            "bring, before giving up"
        ),
    ] = 900.0
    clients_per_task: Annotated[
        Positive | None,
        Field(
            description="clients trained together in one task; null: chosen from model and device"
        ),
    ] = None
    precision: Annotated[
        Literal["float32", "tf32", "bfloat16"],
        Field(description="precision of matrix products and convolutions in local training"),
    ] = "float32"
