"""Where clients' states are, and that shards full of old states go without changing a bit."""

import random

import pytest

from fedsmu_ray.federation import states as states_module
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.states import ClientStates
from fedsmu_ray.federation.tasks import Repack, StateRef
from tests.helpers.experiments import inline_executor, problem_of

ROWS = 5  # of a shard


@pytest.fixture
def no_old_states(monkeypatch):
    """A few old states are too many."""
    monkeypatch.setattr(states_module, "MOST_ROWS", 1.2)
    monkeypatch.setattr(states_module, "IGNORED_SHARDS", 0)


def put(states, shard, clients):
    states.update({client: StateRef(shard, row) for row, client in enumerate(clients)})


def rows_of_all_shards(states, sizes):
    return sum(sizes[shard] for shard in {ref.shard for ref in states.latest.values()})


def test_rows_of_all_shards_are_counted():
    states, draw, sizes = ClientStates(), random.Random(0), {}
    for shard in range(300):
        clients = draw.sample(range(40), draw.randint(1, ROWS))
        sizes[shard] = len(clients)
        put(states, shard, clients)
        assert states.rows == rows_of_all_shards(states, sizes)
    assert len(states.latest) == 40 < states.rows


def test_the_shards_with_most_old_states_are_repacked_first(no_old_states):
    states = ClientStates()
    put(states, "a", [0, 1, 2, 3, 4])
    put(states, "b", [5, 6, 7, 8, 9])
    put(states, "c", [0, 1, 2, 5, 6])
    put(states, "d", [4, 10, 11, 12, 13])  # one state of a is left, and three of b
    assert states.to_repack([], ROWS, 5) == [3]
    assert states.to_repack([3], ROWS, 5) == []  # its state is about to be replaced
    assert states.to_repack([], ROWS, 0) == []


def test_nothing_is_repacked_while_few_states_are_old():
    states = ClientStates()
    put(states, "a", range(30))
    put(states, "b", range(1, 30))
    assert states.rows == 59 and states.to_repack([], 8, 99) == []  # 29 are fewer than 4 * 8
    assert states.to_repack([], 1, 99) == [0]


@pytest.mark.parametrize("at_most", [40, 100])
def test_the_rows_of_all_shards_stay_a_multiple_of_the_states(no_old_states, at_most):
    states, draw, worst = ClientStates(), random.Random(0), 0.0
    for t in range(200):
        cohort = draw.sample(range(1000), 40)
        moved = states.to_repack(cohort, 20, at_most)
        assert not {*moved} & {*cohort} and len(moved) <= at_most
        for start in range(0, len(moved), 20):
            put(states, ("moved", t, start), moved[start : start + 20])
        for start in range(0, 40, 20):
            put(states, ("new", t, start), cohort[start : start + 20])
        if t > 50:
            worst = max(worst, states.rows / len(states.latest))
    assert worst < 1.5


def run_small(algorithm):
    """Records, hash and states of a small run, and its tasks that copied states."""
    problem = problem_of(algorithm, federation={"rounds": 16, "cohort": 7, "eval_every": 8})
    executor, progress, copies = inline_executor(problem), Progress(), []
    original = executor.run

    def run(message, tasks):
        copies.extend(task for task in tasks if isinstance(task, Repack))
        return original(message, tasks)

    executor.run = run
    history = [(r.round, r.train_loss, r.test_loss) for r in rounds(problem, executor, progress)]
    states = {
        client: {name: a[ref.row].tobytes() for name, a in executor.get_shard(ref.shard).items()}
        for client, ref in sorted(progress.states.latest.items())
    }
    executor.close()
    return (history, executor.sha256(), states), copies


@pytest.mark.parametrize("name", ["fedsmu", "scaffold", "dlion"])
def test_copied_states_change_no_bit(no_old_states, monkeypatch, name):
    with_copies, copies = run_small({"name": name})
    assert copies
    monkeypatch.setattr(states_module, "MOST_ROWS", 1e9)
    without, none = run_small({"name": name})
    assert not none and with_copies == without
