"""On which nodes the client states are, so that tasks can go there instead of states to tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fedsmu_ray.executors.ray_actors import ProcessInfo
from fedsmu_ray.federation.tasks import Evaluation, Task

ANYWHERE = ""  # the home of a task without states
NETWORK_BYTES_PER_S = 1.25e8  # between two nodes: 1 Gbit/s


class Homes:
    """The nodes of client actors, and of the states that they have made."""

    def __init__(self, here: str, processes: Mapping[int, ProcessInfo], shard_bytes: int) -> None:
        """here: the node of this process, where restored states are. processes: of client actors.

        shard_bytes: size of a shard of states.
        """
        self.here, self.processes, self.shard_bytes = here, processes, shard_bytes
        self.clients: dict[int, str] = {}  # whose states were made by a task

    def made(self, clients: Iterable[int], index: int) -> None:
        """Note that an actor has made the states of these clients."""
        self.clients.update(dict.fromkeys(clients, self.actor(index)))

    def actor(self, index: int) -> str:
        """The node of an actor."""
        process = self.processes.get(index)
        return process.node if process else ANYWHERE

    def tasks(self, tasks: Iterable[Task]) -> list[str]:
        """For each task, the node that has most of the states it needs."""
        if len({process.node for process in self.processes.values()}) < 2:
            return [ANYWHERE for _ in tasks]
        return [self._task(task) for task in tasks]

    def _task(self, task: Task) -> str:
        if isinstance(task, Evaluation):
            return ANYWHERE
        pairs = zip(task.clients, task.states)
        found = Counter(self.clients.get(client, self.here) for client, ref in pairs if ref)
        return max(found, key=lambda node: found[node], default=ANYWHERE)

    def move_s(self, task: Task) -> float:
        """How long the states of a task take to another node, in seconds (an estimate)."""
        if isinstance(task, Evaluation):
            return 0.0
        shards = {ref.shard for ref in task.states if ref}
        return len(shards) * self.shard_bytes / NETWORK_BYTES_PER_S
