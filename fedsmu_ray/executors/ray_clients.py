"""The pool of client actors: places and loads them, and replaces those that are lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedsmu_ray.config.schema import ComputeConfig
from fedsmu_ray.errors import BrokenGPUError, ExecutionError
from fedsmu_ray.executors import ray_actors
from fedsmu_ray.executors.ray_cluster import free_resources
from fedsmu_ray.executors.ray_errors import PROCESS_LOST, first_sentence

log = logging.getLogger(__name__)

START_TIMEOUT_S = 300.0  # for the first client actor to be placed and to load the experiment
JOIN_TIMEOUT_S = 20.0  # then for the others; those that take longer join later
WARN_AFTER_S = 30.0  # if no client actor is ready
START_RETRIES = 3  # of a client actor that is lost while it loads the experiment


class ClientPool:
    """Client actors by index. They outlive an experiment: `load` gives them the next one."""

    def __init__(
        self, compute: ComputeConfig, count: int, placement: PlacementGroup | None = None
    ) -> None:
        """Start `count` client actors.

        placement: a trial's placement group, with bundle i for client actor i; None: anywhere.
        """
        self.compute, self.placement = compute, placement
        self.actors = [self._start(i) for i in range(count)]
        self.loading: dict[Any, int] = {}  # reference that is ready when an actor is -> its index
        self.failed_starts: Counter[int] = Counter()

    def load(self, stored: tuple[Any, Any]) -> None:
        """Begin to give all actors an experiment.

        stored: references to the problem without data, and to the data.
        """
        self.stored = stored
        self.failed_starts.clear()
        self.loading = {actor.load.remote(*stored): i for i, actor in enumerate(self.actors)}

    def unload(self) -> None:
        """Have all actors forget the experiment; `load` or `close` must follow."""
        for actor in self.actors:
            actor.unload.remote()
        del self.stored

    def wait_until_loaded(self) -> None:
        """Wait for a first actor, then a little longer for the others.

        Those that take much longer (a cluster may have to grow for them) join later. Raises
        ExecutionError if none is ready in time.
        """
        self.join([self.first_loaded()])
        if self.loading:
            refs = list(self.loading)
            self.join(ray.wait(refs, num_returns=len(refs), timeout=JOIN_TIMEOUT_S)[0])
        if self.loading:
            log.warning(
                "%d of %d client actors are not ready yet (free: %s); they join when they are",
                len(self.loading),
                len(self.actors),
                free_resources(),
            )

    def ready(self) -> list[int]:
        """The actors that have loaded the experiment."""
        loading = set(self.loading.values())
        return [i for i in range(len(self.actors)) if i not in loading]

    def first_loaded(self) -> Any:
        """Wait for one of the loading actors, with a warning if it takes long.

        Raises ExecutionError after START_TIMEOUT_S.
        """
        refs = list(self.loading)
        if not refs:
            raise ExecutionError(
                f"all {len(self.actors)} client actors are lost and could not be started again"
            )
        loaded, _ = ray.wait(refs, timeout=WARN_AFTER_S)
        if not loaded:
            count = f"{len(refs)} client actor{'s' * (len(refs) > 1)}"
            log.warning("still waiting for %s (free: %s)", count, free_resources())
            loaded, _ = ray.wait(refs, timeout=START_TIMEOUT_S - WARN_AFTER_S)
        if not loaded:
            raise ExecutionError(
                f"no client actor was ready after {START_TIMEOUT_S:.0f} s: the cluster has "
                f"{free_resources()} free; lower compute.cpus_per_actor or compute.gpus_per_actor, "
                "or free some"
            )
        return loaded[0]

    def join(self, refs: Iterable[Any]) -> list[int]:
        """The actors that have loaded the experiment; those lost meanwhile are started again.

        refs: calls of `loading` that have ended. Raises what loading the experiment raised.
        """
        joined = []
        for ref in refs:
            index = self.loading.pop(ref)
            try:
                ray.get(ref)
                self.failed_starts.pop(index, None)
                joined.append(index)
            except RayTaskError as error:
                if not isinstance(error.cause, BrokenGPUError):
                    raise error.cause from None
                self._start_again(index, error.cause)
            except PROCESS_LOST as error:
                self._start_again(index, error)
        return joined

    def replace(self, index: int) -> None:
        """Start a new actor in place of one that is lost or hangs; it joins when it is ready."""
        ray.kill(self.actors[index])
        self.actors[index] = self._start(index)
        self.loading[self.actors[index].load.remote(*self.stored)] = index

    def restart(self) -> None:
        """Start all actors anew; `load` must follow."""
        self.close()
        self.actors = [self._start(i) for i in range(len(self.actors))]

    def close(self) -> None:
        """End all actors."""
        for actor in self.actors:
            ray.kill(actor)

    def _start_again(self, index: int, error: BaseException) -> None:
        self.failed_starts[index] += 1
        if self.failed_starts[index] <= START_RETRIES:
            self.replace(index)
            return
        log.warning(
            "client actor %d was lost %d times while starting; continuing without it (%s)",
            index,
            self.failed_starts[index],
            first_sentence(error),
        )

    def _start(self, index: int) -> Any:
        compute, options = self.compute, {}
        if self.placement is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.placement, placement_group_bundle_index=index
            )
        return (
            ray.remote(ray_actors.ClientActor)
            .options(num_cpus=compute.cpus_per_actor, num_gpus=compute.gpus_per_actor, **options)
            .remote()
        )
