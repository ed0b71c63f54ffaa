"""The server of an experiment on Ray: an object in the process of the rounds, or an actor."""

from __future__ import annotations

from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsmu_ray.executors.ray_actors import Answer, ServerActor, receive
from fedsmu_ray.executors.ray_errors import get
from fedsmu_ray.executors.ray_nodes import this_node
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.spans import Spans

INLINE_BYTES = 1 << 16  # largest message that is passed in the calls themselves
PROCESS = "server"  # the name of the server's process in spans


class ServerHandle(Protocol):
    """How the executor calls the server, wherever it is."""

    def load(self, problem: Problem, stored: tuple[Any, Any], spans: Spans) -> None:
        """Give the server an experiment.

        stored: references to the problem without data, and to the data. spans: what it measures is
        added to these.
        """
        ...

    def message(self, name: str, *arguments: Any) -> Any:
        """The message that a method of the server returns, to be an argument of calls."""
        ...

    def receive(self, parts: list[Any]) -> None:
        """Take the uploads of a call; parts: references (see `ray_actors.in_parts`)."""
        ...

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the server, after everything that was sent to it before."""
        ...

    def caused(self, error: BaseException) -> bool:
        """Whether an error of Ray is about the server actor."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class ServerInActor:
    """The server as an actor on this process's node, so that other nodes can be lost."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        remote: Any = ray.remote(ServerActor)
        self.actor = remote.options(num_cpus=0, scheduling_strategy=here).remote()
        self.received: list[Any] = []

    def load(self, problem: Problem, stored: tuple[Any, Any], spans: Spans) -> None:
        self.spans = spans
        get([self.actor.load.remote(*stored)])

    def message(self, name: str, *arguments: Any) -> Any:
        return self.actor.call.remote(name, *arguments)

    def receive(self, parts: list[Any]) -> None:
        self.received.append(self.actor.receive.remote(*parts))

    def ask(self, name: str, *arguments: Any) -> Any:
        received, self.received = self.received, []
        answer: Answer = get([*received, self.actor.ask.remote(name, *arguments)])[-1]
        self.spans.add(answer.spans, PROCESS)
        return answer.value

    def caused(self, error: BaseException) -> bool:
        return bool(getattr(error, "actor_id", None) == self.actor._actor_id.hex())

    def close(self) -> None:
        ray.kill(self.actor)


class ServerInProcess:
    """The server as an object in this process, which mostly waits.

    Opening a round, adding up and stepping are then no calls to another process.
    """

    def load(self, problem: Problem, stored: tuple[Any, Any], spans: Spans) -> None:
        self.server = Server(problem, spans)

    def message(self, name: str, *arguments: Any) -> Any:
        message = getattr(self.server, name)(*arguments)
        return message if message.nbytes <= INLINE_BYTES else ray.put(message)

    def receive(self, parts: list[Any]) -> None:
        receive(self.server, get(parts))

    def ask(self, name: str, *arguments: Any) -> Any:
        return getattr(self.server, name)(*arguments)

    def caused(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        """Nothing to release: the server ends with this process."""
