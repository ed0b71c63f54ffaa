"""Which tasks share a call to a client actor, and which actor gets the next call."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsmu_ray.federation.tasks import Task, Train
from fedsmu_ray.wire.accumulators import node_count

CALL_S = 0.02  # of training per call: short tasks share a call, at least up to this time
LONGEST_CALL_S = 0.1  # and at most up to this one, so that results keep coming
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


class TaskQueue:
    """The tasks that no actor has got yet, in the order in which they are handed out.

    Which tasks share a call and who gets them depends on timing; no result depends on it.
    """

    def __init__(self, timed: bool, sums: bool) -> None:
        """timed: whether tasks have a time limit, which each call then has for itself.

        sums: whether a call returns the sums of its uploads.
        """
        self.timed, self.sums = timed, sums
        self.todo: deque[tuple[Task, int]] = deque()  # with how many actors they have lost
        self.task_seconds = float("inf")  # of a Train task in the last call

    def __len__(self) -> int:
        return len(self.todo)

    def fill(self, tasks: Iterable[Task]) -> None:
        """Begin with these tasks, instead of those that an interrupted run has left."""
        self.todo = deque((task, 0) for task in tasks)

    def put_back(self, tasks: Sequence[Task], losses: int) -> None:
        """Tasks to hand out next, after the loss of their actor."""
        self.todo.extendleft((task, losses) for task in reversed(tasks))

    def take(self, actors: int, idle: int) -> tuple[list[Task], int]:
        """The tasks of the next call: one, or several Train tasks that are short; and their losses.

        A call costs milliseconds, so short tasks share one. Shares become smaller towards the end,
        so that all of `actors` end together (guided self-scheduling, C. Polychronopoulos and
        D. Kuck, IEEE Trans. Computers 36(12), 1987). A task with a time limit, or one whose actor
        was lost, has a call of its own.

        idle: how many of the actors have no call; with none, it is for one that is called ahead.
        """
        share = min(
            max(CALL_S / self.task_seconds, len(self.todo) / (SHARES * actors)),
            LONGEST_CALL_S / self.task_seconds,
            -(-len(self.todo) // (idle or actors)),
        )
        task, losses = self.todo.popleft()
        tasks = [task]
        if not isinstance(task, Train) or losses or self.timed:
            return tasks, losses
        while len(tasks) + 1 <= share and isinstance(self.todo[0][0], Train):
            if self.todo[0][1]:
                break
            tasks.append(self.todo.popleft()[0])
        # Towards the end of a round, fewer tasks would be an unequal share.
        if self.sums and len(self.todo) >= actors * len(tasks):
            best = _aligned(task.position, [len(t.clients) for t in tasks if isinstance(t, Train)])
            self.put_back(tasks[best:], 0)
            tasks = tasks[:best]
        return tasks, losses

    def next_actor(
        self, actors: Sequence[Any], ready: Collection[int], calls: Collection[Call]
    ) -> tuple[int, int] | None:
        """The index of the actor for the next call, and how many actors are idle.

        It is one of those, or one to call ahead; None if no actor is to get a call now.

        An actor at work gets a second call if tasks are short and many are left: it need not wait
        then for the driver between two calls. Towards the end of a round it would have tasks to
        spare while others wait. ready: indices among `actors` of those that are not loading.
        """
        if not self.todo or not ready:
            return None
        busy = Counter(call.index for call in calls if call.actor is actors[call.index])
        index, idle = min(ready, key=lambda i: busy[i]), sum(not busy[i] for i in ready)
        many = len(self.todo) > 2 * len(ready)
        ahead = many and not self.timed and self.task_seconds <= LONGEST_CALL_S
        return (index, idle) if idle or (ahead and busy[index] == 1) else None


def _aligned(position: int, sizes: Sequence[int]) -> int:
    """How many of these consecutive groups to take, more than half: those with the fewest sums."""
    counts = range(len(sizes), len(sizes) // 2, -1)
    return min(counts, key=lambda count: node_count(position, sum(sizes[:count])))
