"""Which tasks share a call to a client actor, and which actor gets it."""

import pytest

from fedsmu_ray.executors.ray_calls import CALL_S, LONGEST_CALL_S, Call, TaskQueue
from fedsmu_ray.federation.tasks import Evaluate, Train


def fresh(count, clients=1):
    groups = [tuple(range(i * clients, (i + 1) * clients)) for i in range(count)]
    return [Train(1, group[0], group, (None,) * clients) for group in groups]


def queue(tasks, pace=CALL_S / 4.5, timed=False, sums=True):
    waiting = TaskQueue(timed, sums)
    waiting.fill(tasks)
    waiting.task_seconds = pace
    return waiting


def next_call(tasks, actors=1, **options):
    waiting = queue(tasks, **options)
    got, losses = waiting.take(actors, actors)
    # No task is lost, and the order is kept.
    assert losses == 0 and [*got, *(task for task, _ in waiting.todo)] == tasks
    return len(got)


def test_short_tasks_share_a_call():
    score = [Evaluate(1, 0, 100)]
    assert next_call(fresh(8)) == 4  # as many as fit CALL_S
    assert next_call(fresh(8), actors=4) == 2  # few enough to leave work for the other actors
    assert next_call(fresh(1)) == 1
    assert next_call(fresh(3), pace=float("inf")) == next_call(fresh(3), pace=CALL_S) == 1
    assert next_call(fresh(2) + score + fresh(2)) == 2 and next_call(score + fresh(9)) == 1
    assert next_call(fresh(10), timed=True) == 1


def test_what_took_its_actor_down_goes_alone():
    waiting = queue(fresh(6))
    tasks, losses = waiting.take(1, 1)
    waiting.put_back(tasks, losses + 1)
    for i in range(4):
        assert waiting.take(1, 1) == ([tasks[i]], 1)
    assert waiting.take(1, 1) == (fresh(6)[4:], 0)


def test_calls_become_smaller_towards_the_end():
    waiting, sizes = queue(fresh(500), LONGEST_CALL_S / 100), []
    while waiting:
        sizes.append(len(waiting.take(2, 0)[0]))
    assert sum(sizes) == 500 and 50 < sizes[0] <= 125 and sizes[-1] <= 20
    assert all(b <= 2 * a for a, b in zip(sizes, sizes[1:]))
    assert next_call(fresh(500), actors=2, pace=LONGEST_CALL_S / 20) <= 20
    assert next_call(fresh(500), actors=2, pace=LONGEST_CALL_S / 50, sums=False) == 50


def test_equal_shares_are_not_cut_for_the_sake_of_their_sum():
    waiting = queue(fresh(10), CALL_S / 20)
    assert [len(waiting.take(2, idle)[0]) for idle in (2, 1)] == [5, 5] and not waiting


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_calls_end_where_their_sum_is_in_few_parts(clients):
    waiting, stops = queue(fresh(200, clients), CALL_S / 20), []
    while len(waiting) > 60:
        stops.append(waiting.take(1, 1)[0][-1].clients[-1] + 1)
    assert all(stop % (8 * clients) == 0 for stop in stops)


def test_an_actor_at_work_gets_a_second_call_while_many_short_tasks_are_left():
    actors = [object(), object()]

    def calls(*busy):
        return [Call([], 0, i, actor, 0.0, None) for i, actor in busy]

    one, both = calls((0, actors[0])), calls((0, actors[0]), (1, actors[1]))
    waiting = queue(fresh(20))
    assert waiting.next_actor(actors, [0, 1], []) == (0, 2)
    assert waiting.next_actor(actors, [0, 1], one) == (1, 1)
    assert waiting.next_actor(actors, [0, 1], both) == (0, 0)  # ahead
    assert waiting.next_actor(actors, [0, 1], both + one) == (1, 0)
    assert waiting.next_actor(actors, [0, 1], both + both) is None
    assert waiting.next_actor(actors, [], []) is None  # all are loading
    assert waiting.next_actor(actors, [1], both) == (1, 0)
    # The calls of a lost actor are not those of the one in its place.
    assert waiting.next_actor(actors, [0, 1], calls((0, object()), (1, actors[1]))) == (0, 1)
    for few in (queue(fresh(4)), queue(fresh(20), pace=1.0), queue(fresh(20), timed=True)):
        assert few.next_actor(actors, [0, 1], both) is None
        assert few.next_actor(actors, [0, 1], one) == (1, 1)
    assert queue([]).next_actor(actors, [0, 1], []) is None
