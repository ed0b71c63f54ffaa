"""How the executor on Ray is opened: for a run of its own, or inside a trial of a sweep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from ray.util import get_current_placement_group

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.executors import ray_cluster, ray_placement
from fedsmu_ray.executors.base import actor_resources
from fedsmu_ray.executors.ray_executor import RayExecutor
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Executor

log = logging.getLogger(__name__)


def warn_of_idle_gpus(groups: int, size: int, actors: int) -> None:
    """Log a warning if a round has fewer groups (of `size` clients) than `actors` have room."""
    if groups < actors:
        log.warning(
            "GPUs stay idle: they have room for %d client actors, but a round has only %d client "
            "group%s, of up to %d clients; set compute.clients_per_task to less than %d",
            actors,
            groups,
            "s" if groups > 1 else "",
            size,
            size,
        )


class RayBackend:
    """Opens executors on Ray (see `executors.base.Backend`)."""

    def check(self, compute: ComputeConfig) -> None:
        ray_placement.check(compute)

    @contextmanager
    def open(self, problem: Problem, address: str | None) -> Iterator[tuple[Executor, str]]:
        compute = problem.config.compute
        with ray_cluster.cluster(address, problem.config) as where:
            groups = -(-problem.config.federation.cohort // problem.group_size)
            may = ray_placement.check(compute)
            room = ray_placement.fitting_actors(compute)
            # Those that do not fit yet have the autoscaler start nodes.
            most = room if may.most == inf else int(may.most)
            count = compute.actors or max(1, min(groups, most))
            if compute.gpus_per_actor:
                warn_of_idle_gpus(groups, problem.group_size, max(count, room))
            executor = RayExecutor(compute, count, most_actors=compute.actors or groups)
            try:
                executor.load(problem)
                del problem  # its copy of the data can be released
                yield executor, f"{count} client actor{'s' * (count > 1)} on {where}"
            finally:
                executor.close()

    def trial_bundles(self, compute: ComputeConfig) -> list[dict[str, float]]:
        # The process of the trial, with the server in it, mostly waits and reserves nothing.
        return [{}, *[actor_resources(compute)] * (compute.actors or 1)]

    def open_in_trial(self, compute: ComputeConfig) -> Executor:
        return RayExecutor(compute, compute.actors or 1, get_current_placement_group())
