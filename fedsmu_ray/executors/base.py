"""The protocol by which executors are opened, and the resources of a client actor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Executor


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
    """Resources of one client actor, in Ray's terms."""
    gpus = {"GPU": compute.gpus_per_actor} if compute.gpus_per_actor else {}
    return {"CPU": compute.cpus_per_actor, **gpus}
