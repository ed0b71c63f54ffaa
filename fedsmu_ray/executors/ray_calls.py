"""Which tasks share a call to a client actor, and which actor gets the next call."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from fedsmu_ray.federation.batches import local_steps
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Evaluate, Task, Train
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


class TaskQueue:
    """The tasks that no actor has got yet, in the order in which they are handed out.

    Which tasks share a call and who gets them depends on timing; no result depends on it.
    """

    def __init__(self, steps: Callable[[Task], float], timed: bool, sums: bool) -> None:
        """steps: how many training steps take as long as a task, about.

        timed: whether tasks have a time limit, which each call then has for itself. sums: whether a
        call returns the sums of its uploads.
        """
        self.steps, self.timed, self.sums = steps, timed, sums
        self.todo: deque[tuple[Task, int]] = deque()  # with how many actors they have lost
        self.left = 0.0  # steps of them
        self.paces: dict[int, float] = {}  # seconds per step, by actor
        self.began: dict[int, float] = {}  # when an actor began its call, monotonic seconds

    def __len__(self) -> int:
        return len(self.todo)

    def fill(self, tasks: Iterable[Task]) -> None:
        """Begin with these tasks, instead of those that an interrupted run has left."""
        self.todo = deque((task, 0) for task in tasks)
        self.left = sum(self.steps(task) for task, _ in self.todo)

    def put_back(self, tasks: Sequence[Task], losses: int) -> None:
        """Tasks to hand out next, after the loss of their actor."""
        self.todo.extendleft((task, losses) for task in reversed(tasks))
        self.left += sum(map(self.steps, tasks))

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

    def take(self, index: int, actors: int, idle: int) -> tuple[list[Task], int]:
        """The tasks of the next call: one, or several Train tasks that are short; and their losses.

        A call costs milliseconds, so short tasks share one. Shares become smaller towards the end,
        so that all of `actors` end together (guided self-scheduling, C. Polychronopoulos and
        D. Kuck, IEEE Trans. Computers 36(12), 1987). A task with a time limit, or one whose actor
        was lost, has a call of its own.

        index: of the actor that is called. idle: how many actors have no call; with none, it is
        called ahead.
        """
        if idle:
            self.began[index] = time.monotonic()
        pace, (task, losses), count = self.paces.get(index, inf), self.todo[0], 1
        if isinstance(task, Train) and not losses and not self.timed:
            left = self.left * pace
            share = max(CALL_S, left / (SHARES * actors))
            share = min(share, LONGEST_CALL_S, left / (idle or actors))
            joined = self._joined(share / pace)
            count = len(joined)
            # Towards the end of a round, fewer tasks would be an unequal share.
            if self.sums and len(self.todo) - count >= actors * count:
                count = _aligned(task.position, [len(each.clients) for each in joined])
        tasks = [self.todo.popleft()[0] for _ in range(count)]
        self.left -= sum(map(self.steps, tasks))
        return tasks, losses

    def _joined(self, steps: float) -> list[Train]:
        """The next tasks, at least one, that are the nearest to so many steps."""
        joined: list[Train] = []
        total = 0.0
        for task, losses in self.todo:
            more = self.steps(task)
            if not isinstance(task, Train) or losses or (joined and total + more / 2 > steps):
                break
            joined.append(task)
            total += more
        return joined

    def next_actor(
        self, actors: Sequence[Any], ready: Collection[int], calls: Collection[Call]
    ) -> tuple[int, int] | None:
        """The index of the actor for the next call, and how many actors are idle.

        It is one of those, or one to call ahead; None if no actor is to get a call now.

        An actor that is about to end a call gets a second one if tasks are short: it need not wait
        then for the driver between the two. ready: indices among `actors` of those that are not
        loading.
        """
        if not self.todo or not ready:
            return None
        busy: dict[int, list[Call]] = {index: [] for index in ready}
        for call in calls:
            if call.index in busy and call.actor is actors[call.index]:
                busy[call.index].append(call)
        index = min(ready, key=lambda i: (len(busy[i]), self._end(i, busy[i])))
        idle = sum(not each for each in busy.values())
        if idle or (len(busy[index]) == 1 and self._due(busy[index][0]) <= time.monotonic()):
            return index, idle
        return None

    def next_due(self, calls: Collection[Call]) -> float:
        """When an actor is the next to get a call ahead, in monotonic seconds."""
        if not self.todo:
            return inf
        now, count = time.monotonic(), Counter(call.index for call in calls)
        times = (self._due(call) for call in calls if count[call.index] == 1)
        return min((due for due in times if due > now), default=inf)

    def _due(self, call: Call) -> float:
        """When the actor that has this call gets one ahead."""
        short = self.seconds(call.index, [self.todo[0][0]]) <= LONGEST_CALL_S
        if self.timed or not short:
            return inf
        return self._end(call.index, [call]) - LEAD_S

    def _end(self, index: int, calls: Iterable[Call]) -> float:
        """When an actor is expected to have ended these calls."""
        return self.began.get(index, 0.0) + sum(call.seconds for call in calls)


def step_counter(problem: Problem) -> Callable[[Task], float]:
    """A function that says how many training steps take as long as a task, about."""
    local = problem.config.local
    steps = local_steps(problem.partition.sizes, local.epochs, local.batch_size).tolist()

    def count(task: Task) -> float:
        if isinstance(task, Evaluate):
            return FORWARD_SHARE * (task.stop - task.start) / local.batch_size
        if not isinstance(task, Train):
            return float(len(task.clients))
        return float(sum(steps[client] + STEPS_OF_CLIENT for client in task.clients))

    return count


def _aligned(position: int, sizes: Sequence[int]) -> int:
    """How many of these consecutive groups to take, more than half: those with the fewest sums."""
    counts = range(len(sizes), len(sizes) // 2, -1)
    return min(counts, key=lambda count: node_count(position, sum(sizes[:count])))
