"""Which tasks share a call to a client actor, and which actor gets the next call."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from fedsmu_ray.executors.ray_homes import ANYWHERE, Homes
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Evaluate, EvaluateClients, Task, Train
from fedsmu_ray.wire.accumulators import node_count

CALL_S = 0.03  # of training per call: short tasks share a call, at least up to this time
LONGEST_CALL_S = 0.1  # and at most up to this one, so that results keep coming
LEAD_S = 0.01  # before an actor is expected to end a call, it gets the next one
FORWARD_SHARE = 1 / 3  # of a training step that is its forward pass
STEPS_OF_CLIENT = 3  # that take as long as all else a client needs (measured: 0.3 to 6)
SHARES = 2  # into which the tasks that are left are cut for each actor, from CALL_S on


@dataclass(frozen=True)
class Call:
    """An in-flight call to a client actor: one task, or several Train tasks."""

    tasks: Sequence[Task]
    losses: int  # how many actors these tasks have lost before
    index: int  # of the actor in the pool
    actor: Any  # the actor itself, which another one may have replaced since
    deadline: float  # monotonic seconds
    done: Any  # reference to an Answer: ready when the call has ended
    uploads: list[Any] = field(default_factory=list)  # references to their parts
    shards: list[Any] = field(default_factory=list)  # references to the new shards of all tasks
    seconds: float = inf  # that it is expected to take


class Entry(NamedTuple):
    """A task that waits."""

    order: int  # in which tasks are handed out
    task: Task
    losses: int  # how many actors it has lost


class Turn(NamedTuple):
    """Which actor gets the next call."""

    actor: int  # its index
    idle: int  # actors without a call; with none, it is called ahead
    home: str = ANYWHERE  # of the tasks that it gets


class TaskQueue:
    """The tasks that no actor has got yet, in the order in which they are handed out.

    An actor gets tasks whose states are on its node, or without states. If there are none left, it
    takes some of the node that would need longest for its own, unless moving the states would take
    as long. Which tasks share a call and who gets them depends on timing; no result depends on it.
    """

    def __init__(
        self, steps: Callable[[Task], float], timed: bool, sums: bool, homes: Homes
    ) -> None:
        """steps: how many training steps take as long as a task, about.

        timed: whether tasks have a time limit, which each call then has for itself. sums: whether a
        call returns the sums of its uploads.
        """
        self.steps, self.timed, self.sums, self.homes = steps, timed, sums, homes
        self.todo: dict[str, deque[Entry]] = {}  # by home
        self.left: dict[str, float] = {}  # steps of them
        self.paces: dict[int, float] = {}  # seconds per step, by actor
        self.began: dict[int, float] = {}  # when an actor began its call, monotonic seconds

    def __len__(self) -> int:
        return sum(map(len, self.todo.values()))

    def fill(self, tasks: Sequence[Task]) -> None:
        """Begin with these tasks, instead of those that an interrupted run has left."""
        self.todo, self.left = {}, {}
        for order, (task, home) in enumerate(zip(tasks, self.homes.tasks(tasks))):
            self.todo.setdefault(home, deque()).append(Entry(order, task, 0))
            self._count(home, [task])

    def put_back(self, tasks: Sequence[Task], losses: int) -> None:
        """Tasks to hand out next, after the loss of their actor."""
        queue = self.todo.setdefault(ANYWHERE, deque())
        queue.extendleft(Entry(-1, task, losses) for task in reversed(tasks))
        self._count(ANYWHERE, tasks)

    def _count(self, home: str, tasks: Sequence[Task], sign: int = 1) -> None:
        self.left[home] = self.left.get(home, 0.0) + sign * sum(map(self.steps, tasks))

    def trained(self, call: Call, seconds: float) -> None:
        """Note how long an actor has trained in a call."""
        pace, before = seconds / sum(map(self.steps, call.tasks)), self.paces.get(call.index)
        # One call may have met a busy moment.
        self.paces[call.index] = pace if before is None else (pace + before) / 2

    def ended(self, call: Call) -> None:
        """Note that an actor is at its next call now, if it has one."""
        self.began[call.index] = time.monotonic()

    def seconds(self, index: int, tasks: Iterable[Task]) -> float:
        """How long an actor is expected to take."""
        return self.paces.get(index, inf) * sum(map(self.steps, tasks))

    def take(self, turn: Turn, actors: int) -> tuple[list[Task], int]:
        """The tasks of the next call: one, or several Train tasks that are short; and their losses.

        A call costs milliseconds, so short tasks share one. Shares become smaller towards the end,
        so that all of `actors` end together (guided self-scheduling, C. Polychronopoulos and
        D. Kuck, IEEE Trans. Computers 36(12), 1987). A task with a time limit, or one whose actor
        was lost, has a call of its own.
        """
        index, idle, home = turn
        queue, pace = self.todo[home], self.paces.get(index, inf)
        if idle:
            self.began[index] = time.monotonic()
        moved = home not in (ANYWHERE, self.homes.actor(index))
        # Of another node's tasks, those that it would get to last.
        first, count = queue[-1 if moved else 0], 1
        if isinstance(first.task, Train) and not first.losses and not self.timed:
            left = sum(self.left.values()) * pace
            share = max(CALL_S, left / (SHARES * actors))
            share = min(share, LONGEST_CALL_S, left / (idle or actors))
            sizes = self._joined(reversed(queue) if moved else queue, share / pace)
            count = len(sizes)
            # Towards the end of a round, fewer tasks would be an unequal share.
            if self.sums and not moved and len(self) - count >= actors * count:
                count = _aligned(first.task.position, sizes)
        taken = [queue.pop() if moved else queue.popleft() for _ in range(count)]
        tasks = [entry.task for entry in (reversed(taken) if moved else taken)]
        self._count(home, tasks, -1)
        return tasks, first.losses

    def _joined(self, entries: Iterable[Entry], steps: float) -> list[int]:
        """The clients of each of the next tasks, those nearest to so many steps, at least one."""
        sizes: list[int] = []
        total, before = 0.0, 0
        for order, task, losses in entries:
            more = self.steps(task)
            if not isinstance(task, Train) or losses or (sizes and total + more / 2 > steps):
                break
            if self.sums and sizes and abs(order - before) > 1:
                break  # sums of clients that do not follow each other would be in more parts
            sizes.append(len(task.clients))
            total, before = total + more, order
        return sizes

    def next_turn(
        self, actors: Sequence[Any], ready: Collection[int], calls: Collection[Call]
    ) -> Turn | None:
        """Who gets the next call: an idle actor, or one to call ahead; None if nobody does now.

        An actor that is about to end a call gets a second one if tasks are short: it need not wait
        then for the driver between the two. ready: indices among `actors` of those that are not
        loading.
        """
        if not self or not ready:
            return None
        busy: dict[int, list[Call]] = {index: [] for index in ready}
        for call in calls:
            if call.index in busy and call.actor is actors[call.index]:
                busy[call.index].append(call)
        idle = sum(not each for each in busy.values())
        for index in sorted(ready, key=lambda i: (len(busy[i]), self._end(i, busy[i]))):
            if not busy[index]:
                home = self._own(index)
                home = self._other(busy) if home is None else home
            elif idle or len(busy[index]) > 1 or self._due(busy[index][0]) > time.monotonic():
                return None
            else:
                home = self._own(index)
            if home is not None:
                return Turn(index, idle, home)
        return None

    def _own(self, index: int) -> str | None:
        """The home of the next task that needs nothing of another node; None if there is none."""
        homes = [home for home in {self.homes.actor(index), ANYWHERE} if self.todo.get(home)]
        return min(homes, key=lambda home: self.todo[home][0].order, default=None)

    def _other(self, busy: Mapping[int, Sequence[Call]]) -> str | None:
        """The node whose last task is best done elsewhere; None if each is at home.

        busy: the calls in flight of every actor.
        """
        gains = {home: self._gain(home, busy) for home, queue in self.todo.items() if queue}
        home = max(gains, key=lambda each: gains[each], default=None)
        return home if home is not None and gains[home] > 0 else None

    def _gain(self, home: str, busy: Mapping[int, Sequence[Call]]) -> float:
        """How much sooner a node's last task begins, in seconds, if its states are moved now."""
        own = [index for index in busy if self.homes.actor(index) == home]
        if not own:
            return inf
        now, last = time.monotonic(), self.todo[home][-1].task
        work = sum(max(0.0, self._end(index, busy[index]) - now) for index in own)
        before = (self.left[home] - self.steps(last)) * self.paces.get(own[0], inf)
        return (work + before) / len(own) - self.homes.move_s(last)

    def next_due(self, calls: Collection[Call]) -> float:
        """When an actor is the next to get a call ahead, in monotonic seconds."""
        if not self:
            return inf
        now, count = time.monotonic(), Counter(call.index for call in calls)
        times = (self._due(call) for call in calls if count[call.index] == 1)
        return min((due for due in times if due > now), default=inf)

    def _due(self, call: Call) -> float:
        """When the actor that has this call gets one ahead."""
        home = self._own(call.index)
        if self.timed or home is None:
            return inf
        short = self.seconds(call.index, [self.todo[home][0].task]) <= LONGEST_CALL_S
        return self._end(call.index, [call]) - LEAD_S if short else inf

    def _end(self, index: int, calls: Iterable[Call]) -> float:
        """When an actor is expected to have ended these calls."""
        return self.began.get(index, 0.0) + sum(call.seconds for call in calls)


def step_counter(problem: Problem) -> Callable[[Task], float]:
    """A function that says how many training steps take as long as a task, about."""
    batch_size, drawn = problem.config.local.batch_size, problem.work.is_drawn

    @lru_cache(maxsize=2)
    def steps_of(round: int) -> list[int]:
        steps: list[int] = problem.local_steps(round).tolist()
        return steps

    parts, epochs = problem.partition, problem.config.evaluation.personalise.epochs or 0

    def of_client(client: int) -> float:
        """Of the evaluation on a client."""
        trained = epochs * (float(parts.sizes[client]) / batch_size + FORWARD_SHARE)
        return STEPS_OF_CLIENT + trained + FORWARD_SHARE

    def count(task: Task) -> float:
        if isinstance(task, Evaluate):
            return FORWARD_SHARE * (task.stop - task.start) / batch_size
        if isinstance(task, EvaluateClients):
            if task.in_training:
                samples = sum(int(parts.sizes[client]) for client in task.clients)
                return FORWARD_SHARE * samples / batch_size + STEPS_OF_CLIENT * len(task.clients)
            return sum(map(of_client, task.clients))
        if not isinstance(task, Train):
            return float(len(task.clients))
        steps = steps_of(task.round if drawn else 1)
        return float(sum(steps[client] + STEPS_OF_CLIENT for client in task.clients))

    return count


def _aligned(position: int, sizes: Sequence[int]) -> int:
    """How many of these consecutive groups to take, more than half: those with the fewest sums."""
    counts = range(len(sizes), len(sizes) // 2, -1)
    return min(counts, key=lambda count: node_count(position, sum(sizes[:count])))
