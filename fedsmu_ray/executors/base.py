"""The protocol by which executors are opened, and the resources of a client actor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Executor

UNITS = 10_000  # Ray counts resources in these fractions


class Backend(Protocol):
    """How an executor is opened: for a run of its own, or inside a trial of a sweep."""

    def check(self, compute: ComputeConfig) -> None:
        """Raise ExecutionError for resources that the cluster can never provide.

        The cluster has been joined when this is called.
        """
        ...

    def open(
        self, problem: Problem, address: str | None
    ) -> AbstractContextManager[tuple[Executor, str]]:
        """The executor, loaded with the problem, and a phrase that says where it runs.

        address: Ray cluster to join, or None for a local one. All resources are released on exit.
        """
        ...

    def trial_bundles(self, compute: ComputeConfig) -> list[dict[str, float]]:
        """Resources of a trial, as the bundles of its placement group.

        The first bundle is that of the trial's process.
        """
        ...

    def open_in_trial(self, compute: ComputeConfig) -> Executor:
        """The executor of a trial's process, to be loaded with one problem after another."""
        ...


def actor_resources(compute: ComputeConfig) -> dict[str, float]:
    """Resources of one client actor, in Ray's terms.

    Of a card, as much is reserved as leaves nothing that no other actor can use: a half for a share
    of 0.4. Ray chooses a node by the sum over its cards, and an actor that it sends to a node with
    0.2 free on each of two cards waits there for ever.
    """
    gpus = {"GPU": _reserved(compute.gpus_per_actor)} if compute.gpus_per_actor else {}
    return {"CPU": compute.cpus_per_actor, **gpus}


def _reserved(share: float) -> float:
    if share >= 1:
        return share
    on_a_card = UNITS // max(1, round(share * UNITS))
    return (UNITS // on_a_card) / UNITS
