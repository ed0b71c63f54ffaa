"""Which tasks share a call to a client actor, and which actor gets it."""

from math import inf

import pytest

from fedsmu_ray.executors import ray_calls
from fedsmu_ray.executors.ray_actors import ProcessInfo
from fedsmu_ray.executors.ray_calls import (
    CALL_S,
    LEAD_S,
    LONGEST_CALL_S,
    STEPS_OF_CLIENT,
    Call,
    TaskQueue,
    Turn,
    step_counter,
)
from fedsmu_ray.executors.ray_homes import NETWORK_BYTES_PER_S, Homes
from fedsmu_ray.federation.tasks import Evaluate, EvaluateClients, Repack, StateRef, Train
from tests.helpers.experiments import problem_of

NOW = 1000.0


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, which a test moves: [seconds]."""
    seconds = [NOW]
    monkeypatch.setattr(ray_calls.time, "monotonic", lambda: seconds[0])
    return seconds


def fresh(count, clients=1):
    groups = [tuple(range(i * clients, (i + 1) * clients)) for i in range(count)]
    return [Train(1, group[0], group, (None,) * clients) for group in groups]


def call(index, actor, tasks=(), seconds=inf):
    return Call(tasks, 0, index, actor, inf, None, seconds=seconds)


def queue(tasks, pace=CALL_S / 4, timed=False, sums=True, steps=lambda task: 1.0, homes=None):
    """A queue whose actors 0 to 3 take `pace` seconds per step, if that is known."""
    waiting = TaskQueue(steps, timed, sums, homes or Homes("here", {}, 0))
    waiting.fill(tasks)
    if pace is not None:
        for index in range(4):
            waiting.trained(call(index, None, fresh(1)), pace * steps(fresh(1)[0]))
    return waiting


def next_call(tasks, actors=1, **options):
    waiting = queue(tasks, **options)
    got, losses = waiting.take(Turn(0, actors), actors)
    # No task is lost, and the order is kept.
    assert losses == 0 and [*got, *(entry.task for entry in waiting.todo.get("", ()))] == tasks
    return len(got)


def test_short_tasks_share_a_call():
    score = [Evaluate(1, 0, 100)]
    assert next_call(fresh(8)) == 4  # as many as fit CALL_S
    assert next_call(fresh(8), actors=4) == 2  # few enough to leave work for the other actors
    assert next_call(fresh(1)) == 1
    assert next_call(fresh(3), pace=None) == next_call(fresh(3), 3, pace=CALL_S) == 1
    assert next_call(fresh(2) + score + fresh(2)) == 2 and next_call(score + fresh(9)) == 1
    assert next_call(fresh(10), timed=True) == 1


def test_calls_are_as_long_as_their_steps():
    def steps(task):
        return 8.0 if task.position < 2 else 1.0

    waiting = queue(fresh(20), CALL_S / 8, steps=steps, sums=False)
    assert [len(waiting.take(Turn(0, 1), 1)[0]) for _ in range(3)] == [3, 9, 8]


def test_what_took_its_actor_down_goes_alone():
    waiting = queue(fresh(6))
    tasks, losses = waiting.take(Turn(0, 1), 1)
    waiting.put_back(tasks, losses + 1)
    for i in range(4):
        assert waiting.take(Turn(0, 1), 1) == ([tasks[i]], 1)
    assert waiting.take(Turn(0, 1), 1) == (fresh(6)[4:], 0)


def test_calls_become_smaller_towards_the_end():
    waiting, sizes = queue(fresh(500), LONGEST_CALL_S / 100), []
    while waiting:
        sizes.append(len(waiting.take(Turn(0, 0), 2)[0]))
    assert sum(sizes) == 500 and 50 < sizes[0] <= 125 and sizes[-1] <= 30
    assert all(b <= 2 * a for a, b in zip(sizes, sizes[1:]))
    assert next_call(fresh(500), actors=2, pace=LONGEST_CALL_S / 20) <= 20
    assert next_call(fresh(500), actors=2, pace=LONGEST_CALL_S / 50, sums=False) == 50


def test_equal_shares_are_not_cut_for_the_sake_of_their_sum():
    waiting = queue(fresh(10), CALL_S / 20)
    assert [len(waiting.take(Turn(0, idle), 2)[0]) for idle in (2, 1)] == [5, 5] and not waiting


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_calls_end_where_their_sum_is_in_few_parts(clients):
    waiting, stops = queue(fresh(200, clients), CALL_S / 20), []
    while len(waiting) > 60:
        stops.append(waiting.take(Turn(0, 1), 1)[0][-1].clients[-1] + 1)
    assert all(stop % (8 * clients) == 0 for stop in stops)


def test_idle_actors_get_calls_first():
    actors, waiting = [object(), object()], queue(fresh(20))
    one = [call(0, actors[0])]
    assert waiting.next_turn(actors, [0, 1], []) == Turn(0, 2)
    assert waiting.next_turn(actors, [0, 1], one) == Turn(1, 1)
    assert waiting.next_turn(actors, [], []) is None  # all are loading
    assert waiting.next_turn(actors, [0], one) is None
    # The calls of a lost actor are not those of the one in its place.
    assert waiting.next_turn(actors, [0, 1], [call(0, object()), call(1, actors[1])]) == Turn(0, 1)
    assert queue([]).next_turn(actors, [0, 1], []) is None


def test_an_actor_that_is_about_to_end_its_call_gets_the_next_one(clock):
    """The one that is expected to end first; and then the driver need not wait longer."""
    actors, waiting = [object(), object()], queue(fresh(20))
    for index in (0, 1):
        waiting.take(Turn(index, 2 - index), 2)
    calls = [call(0, actors[0], seconds=0.05), call(1, actors[1], seconds=0.03)]
    assert waiting.next_turn(actors, [0, 1], calls) is None
    assert waiting.next_due(calls) == pytest.approx(NOW + 0.03 - LEAD_S)
    clock[0] = waiting.next_due(calls)
    assert waiting.next_turn(actors, [0, 1], calls) == Turn(1, 0)
    calls.append(call(1, actors[1], seconds=0.04))
    assert waiting.next_turn(actors, [0, 1], calls) is None  # no third call
    assert waiting.next_due(calls) == pytest.approx(NOW + 0.05 - LEAD_S)
    # It ended later than expected, and is at its next call since then.
    clock[0] = NOW + 0.045
    waiting.ended(calls.pop(1))
    assert waiting.next_turn(actors, [0, 1], calls) == Turn(0, 0)
    calls.append(call(0, actors[0], seconds=0.04))
    assert waiting.next_due(calls) == pytest.approx(NOW + 0.085 - LEAD_S)
    waiting.todo.clear()
    assert waiting.next_due(calls) == inf


@pytest.mark.parametrize("options", [{"pace": 1.0}, {"pace": None}, {"timed": True}], ids=str)
def test_long_tasks_and_tasks_with_a_time_limit_are_not_called_ahead(options, clock):
    actors, waiting = [object()], queue(fresh(20), **options)
    waiting.take(Turn(0, 1), 1)
    calls = [call(0, actors[0], seconds=0.01)]
    assert waiting.next_due(calls) == inf
    clock[0] += 10.0
    assert waiting.next_turn(actors, [0], calls) is None


def test_the_pace_of_an_actor_is_its_own():
    waiting = queue(fresh(8), None)
    assert waiting.seconds(0, fresh(2)) == inf
    waiting.trained(call(0, None, fresh(2)), 0.2)
    waiting.trained(call(1, None, fresh(2)), 0.4)
    assert waiting.seconds(0, fresh(3)) == pytest.approx(0.3)
    assert waiting.seconds(1, fresh(3)) == pytest.approx(0.6)
    waiting.trained(call(0, None, fresh(2)), 0.6)  # a busy moment counts half
    assert waiting.seconds(0, fresh(1)) == pytest.approx(0.2)


def test_tasks_are_as_long_as_their_local_steps():
    problem = problem_of({"name": "fedavg"})
    local, count = problem.config.local, step_counter(problem)
    tasks = [Train(1, 0, clients, (None,) * len(clients)) for clients in ((0,), (3,), (0, 3))]
    one, other, both = map(count, tasks)
    batches = -(-int(problem.partition.sizes[3]) // local.batch_size)
    assert other == local.epochs * batches + STEPS_OF_CLIENT and both == one + other
    assert 0 < count(Evaluate(1, 0, 20)) == count(Evaluate(1, 0, 40)) / 2
    assert count(Repack(1, (0, 3), ())) == 2
    assert 0 < count(EvaluateClients(1, (3,))) < other
    tuned = problem_of(
        {"name": "fedavg"}, evaluation={"clients": "all", "personalise": {"epochs": 4}}
    )
    assert step_counter(tuned)(EvaluateClients(1, (0, 3))) > both


STATE = int(NETWORK_BYTES_PER_S / 10)  # bytes that take a tenth of a second to another node


def at(*nodes):
    """The homes of clients 0, 1, ... on these nodes, with actor 0 on node a and 1 on node b."""
    processes = {i: ProcessInfo(node, f"host-{node}", i, {}) for i, node in enumerate("ab")}
    homes = Homes("a", processes, STATE)
    for client, node in enumerate(nodes):
        homes.made([client], "ab".index(node))
    return homes


def stateful(count):
    return [Train(1, i, (i,), (StateRef(f"shard {i}", 0),)) for i in range(count)]


def test_tasks_go_to_the_node_of_their_states():
    actors, tasks = [object(), object()], stateful(4)
    waiting = queue(tasks, pace=1.0, homes=at("b", "a", "a", "b"))
    turn = waiting.next_turn(actors, [0, 1], [])
    assert turn == Turn(0, 2, "a") and waiting.take(turn, 2) == (tasks[1:2], 0)
    turn = waiting.next_turn(actors, [0, 1], [call(0, actors[0], tasks[1:2], 1.0)])
    assert turn == Turn(1, 1, "b") and waiting.take(turn, 2) == (tasks[:1], 0)


@pytest.mark.parametrize("pace", [1.0, 0.09])
def test_a_state_moves_only_if_its_task_begins_sooner(pace):
    """Actor 1 has none of its own; actor 0 would begin the third of its tasks after two paces."""
    actors, tasks = [object(), object()], stateful(3)
    waiting = queue(tasks, pace=pace, homes=at("a", "a", "a"))
    waiting.take(Turn(0, 2, "a"), 2)
    calls = [call(0, actors[0], tasks[:1], pace)]
    turn = waiting.next_turn(actors, [0, 1], calls)
    if pace == 1.0:
        assert turn == Turn(1, 1, "a") and waiting.take(turn, 2) == (tasks[2:], 0)  # the last
    else:
        assert turn == Turn(1, 1, "a")  # two paces are more than the tenth of a second
        waiting.take(turn, 2)
        assert waiting.next_turn(actors, [0, 1], calls) is None  # one is not


def test_tasks_of_a_node_without_actors_go_anywhere():
    actors = [object(), object()]
    waiting = queue(stateful(2), pace=1e-6, homes=at("a", "a"))
    assert waiting.next_turn(actors, [1], []) == Turn(1, 1, "a")


def test_tasks_without_states_and_evaluations_are_anybodys():
    tasks = [*fresh(2), Evaluate(1, 0, 10), *stateful(1)]
    waiting = queue(tasks, pace=1.0, homes=at("a"))
    actors = [object(), object()]
    order = []
    while turn := waiting.next_turn(actors, [0, 1], []):
        order += waiting.take(turn, 2)[0]
    assert order == tasks


def test_several_short_tasks_of_another_node_move_at_once_and_keep_their_order():
    actors, tasks = [object(), object()], stateful(300)
    waiting = queue(tasks, pace=CALL_S / 10, sums=False, homes=at(*"a" * 300))
    turn = waiting.next_turn(actors, [1], [])
    moved, _ = waiting.take(Turn(1, 1, "a"), 2)
    assert turn.home == "a" and len(moved) > 5 and moved == tasks[-len(moved) :]


def test_sums_are_of_clients_that_follow_each_other():
    tasks = stateful(6)
    waiting = queue(tasks, pace=CALL_S / 10, homes=at("a", "a", "b", "a", "b", "b"))
    taken = waiting.take(Turn(0, 2, "a"), 2)[0]
    assert taken == tasks[:2]


def test_a_restored_state_is_where_it_was_put():
    assert at().tasks(stateful(1)) == ["a"] and at("b").tasks(stateful(2)) == ["b", "a"]
    assert Homes("a", {}, 0).tasks(stateful(2)) == ["", ""]  # one node, or none
