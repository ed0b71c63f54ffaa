"""The pool of client actors: places and loads them, and replaces those that are lost."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.errors import BrokenGPUError, ExecutionError
from fedsmu_ray.executors import ray_actors, ray_nodes
from fedsmu_ray.executors.base import actor_resources
from fedsmu_ray.executors.ray_actors import ProcessInfo
from fedsmu_ray.executors.ray_errors import (
    PROCESS_LOST,
    creation_error,
    first_sentence,
    raised_there,
)
from fedsmu_ray.executors.ray_placement import fitting_actors, growth
from fedsmu_ray.executors.versions import check_versions, versions

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # a cluster that has grown is told

GROW_EVERY_S = 5.0  # at most, for further room
JOIN_TIMEOUT_S = 20.0  # after the first client actor, for the others; they may also join later
WARN_EVERY_S = 30.0  # while no client actor is ready
START_RETRIES = 3  # of a client actor that is lost while it loads the experiment


class ClientPool:
    """Client actors by index. They outlive an experiment: `load` gives them the next one."""

    def __init__(
        self, compute: ComputeConfig, count: int, placement: PlacementGroup | None = None
    ) -> None:
        """Start `count` client actors.

        placement: a trial's placement group, with bundle i for client actor i; None: anywhere.
        """
        self.compute, self.placement, self.grown = compute, placement, time.monotonic()
        self.actors = [self._start(i) for i in range(count)]
        self.processes: dict[int, ProcessInfo] = {}  # of the actors that have loaded the experiment
        self.loading: dict[Any, int] = {}  # reference that is ready when an actor is -> its index
        self.failed_starts: Counter[int] = Counter()

    def load(self, stored: tuple[Any, Any]) -> None:
        """Begin to give all actors an experiment.

        stored: references to the problem without data, and to the data.
        """
        self.stored = stored
        self.failed_starts.clear()
        self.loading = {actor.load.remote(*stored): i for i, actor in enumerate(self.actors)}

    def grow(self, most: int) -> None:
        """Start further actors, up to `most`, if the cluster has got room for them."""
        now, count = time.monotonic(), len(self.actors)
        if count >= most or now - self.grown < GROW_EVERY_S:
            return
        self.grown = now
        room = min(most, fitting_actors(self.compute))
        if room > count:
            log.info("the cluster has room for %d client actors now, %d more", room, room - count)
        for index in range(count, room):
            self.actors.append(self._start(index))
            self.loading[self.actors[index].load.remote(*self.stored)] = index

    def unload(self) -> None:
        """Have all actors forget the experiment; `load` or `close` must follow."""
        for actor in self.actors:
            actor.unload.remote()
        self.__dict__.pop("stored", None)

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
                ray_nodes.free(),
            )

    def ready(self) -> list[int]:
        """The actors that have loaded the experiment."""
        loading = set(self.loading.values())
        return [i for i in range(len(self.actors)) if i not in loading]

    def first_loaded(self) -> Any:
        """Wait for one of the loading actors, with a line for every half minute.

        Raises ExecutionError after `compute.wait_s`.
        """
        refs = list(self.loading)
        if not refs:
            raise ExecutionError(
                f"all {len(self.actors)} client actors are lost and could not be started again"
            )
        needs, limit = ray_nodes.amount(actor_resources(self.compute)), self.compute.wait_s
        began = time.monotonic()
        while (waited := time.monotonic() - began) < limit:
            loaded, _ = ray.wait(refs, timeout=min(WARN_EVERY_S, limit - waited))
            if loaded:
                return loaded[0]
            log.warning(
                "waiting for a client actor since %.0f s: it needs %s, and free are %s%s; gives up "
                "after %g s (compute.wait_s)",
                time.monotonic() - began,
                needs,
                ray_nodes.free(),
                growth(self.compute).in_words(),
                limit,
            )
        raise ExecutionError(
            f"no client actor is ready after {limit:g} s (compute.wait_s): each needs {needs}, and "
            f"free are {ray_nodes.free()}; lower compute.cpus_per_actor or compute.gpus_per_actor, "
            "free some, or raise compute.wait_s"
        )

    def join(self, refs: Iterable[Any]) -> list[int]:
        """The actors that have loaded the experiment; those lost meanwhile are started again.

        refs: calls of `loading` that have ended. Raises what loading the experiment raised.
        """
        joined = []
        for ref in refs:
            index = self.loading.pop(ref)
            try:
                process: ProcessInfo = ray.get(ref)
                check_versions(versions(), process.versions, f"client actor {index} ({process})")
                self.processes[index] = process
                self.failed_starts.pop(index, None)
                joined.append(index)
            except RayTaskError as error:
                if not isinstance(error.cause, BrokenGPUError):
                    raise raised_there(f"client actor {index}", error) from None
                self._start_again(index, error.cause)
            except PROCESS_LOST as error:
                if why := creation_error(error):
                    raise ExecutionError(f"client actor {index} cannot be made: {why}") from None
                self._start_again(index, error)
        return joined

    def describe(self, index: int) -> str:
        """An actor, for a message."""
        process = self.processes.get(index)
        return f"client actor {index}" + (f" ({process})" if process else "")

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
        needs, options = actor_resources(self.compute), {}
        if self.placement is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self.placement, placement_group_bundle_index=index
            )
        return (
            ray.remote(ray_actors.ClientActor)
            .options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), **options)
            .remote()
        )
