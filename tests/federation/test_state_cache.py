"""States that stay on a make-believe card: the same bits as from the store, and never another's."""

from dataclasses import replace

import pytest
import torch

from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.state_cache import StateCache
from fedsmu_ray.federation.tasks import Makers, Repack, StateRef, Train, makers, state_refs
from fedsmu_ray.numerics import gpu
from tests.federation.test_client_on_card import on_the_card, problem_of
from tests.helpers.card import card

BYTES = 16  # of the state of a client


def states(*values):
    return {"m": torch.tensor([[v, v] for v in values]), "h": torch.zeros(len(values), 2)}


def test_a_state_is_given_to_the_task_that_follows_its_own():
    cache = StateCache(1000)
    cache.keep(7, [3, 5], states(1.0, 2.0))
    assert cache.take(8, 3) is cache.take(None, 3) is cache.take(7, 4) is None
    assert cache.take(7, 5)["m"].tolist() == [2, 2] and cache.take(7, 5) is None
    cache.keep(9, [3], states(4.0))
    assert cache.take(7, 3) is None and cache.take(9, 3)["m"].tolist() == [4, 4]
    assert cache.bytes == 0 and not cache.clear()


def test_the_oldest_states_go_first():
    cache = StateCache(2 * BYTES)
    cache.keep(1, [0, 1], states(0.0, 1.0))
    cache.keep(2, [0], states(5.0))
    cache.keep(3, [2], states(2.0))  # for which client 1 goes
    assert cache.bytes == 2 * BYTES and cache.take(1, 1) is None
    assert cache.take(2, 0) and cache.take(3, 2)
    StateCache(BYTES - 1).keep(1, [0], states(0.0))
    cache.keep(4, [1], states(0.0))
    assert cache.clear() and cache.bytes == 0 and cache.take(4, 1) is None


def test_what_is_kept_does_not_change_with_what_it_was_made_from():
    cache, made = StateCache(1000), states(1.0)
    cache.keep(1, [0], made)
    made["m"].zero_()
    assert cache.take(1, 0)["m"].tolist() == [1, 1]


def test_states_are_named_by_the_task_that_made_them():
    first, second = (Train(1, 0, (4, 6), (None, None)) for _ in range(2))
    assert first.number != second.number and first == second
    assert makers(first) == Makers(first.number, [None, None])
    refs = state_refs(first, ["shard"], 2)
    assert refs == {4: StateRef("shard", 0, first.number), 6: StateRef("shard", 1, first.number)}
    task = Train(2, 0, (6, 9), (refs[6], None))
    assert makers(replace(task, states=())).task == task.number
    assert makers(task).of_states == [first.number, None]
    assert state_refs(Repack(2, (4,), (refs[4],)), ["new"], 1)[4].task is None


@pytest.fixture
def trained():
    """A worker on a card, and what it needs for round 2 of two clients."""
    problem = on_the_card(problem_of())
    sent = Server(problem).open_round(1, False)
    with card() as used:
        worker = ClientWorker(problem)
        states = worker.train(1, [0, 1], sent, [None] * 2, Makers(1, [None] * 2)).states
        given = [{n: a[i] for n, a in states.items()} for i in range(2)]
        used.clear()
        yield worker, sent, given, used


def test_a_kept_state_is_not_copied_again_and_has_the_same_bits(trained):
    worker, sent, given, used = trained
    kept = worker.train(1, [0, 1], sent, given, Makers(2, [1, 1]))
    with_cache = used.to_card
    used.clear()
    again = worker.train(1, [0, 1], sent, given, Makers(3, [1, 1]))  # given away already
    assert used.to_card - with_cache == sum(a.nbytes for s in given for a in s.values())
    assert kept.messages.tobytes() == again.messages.tobytes()
    assert all((kept.states[name] == again.states[name]).all() for name in again.states)


@pytest.mark.parametrize("of_states", [[None, None], [5, 5]], ids=["restored", "other"])
def test_a_state_of_other_origin_is_the_one_that_is_given(trained, of_states):
    worker, sent, given, _ = trained
    others = [{n: a + 1 for n, a in s.items()} for s in given]
    found = worker.train(1, [0, 1], sent, others, Makers(2, of_states))
    wanted = worker.train(1, [0, 1], sent, others)
    assert found.messages.tobytes() == wanted.messages.tobytes()
    assert found.states.keys() == wanted.states.keys()
    for name, array in found.states.items():
        assert array.tobytes() == wanted.states[name].tobytes()


def test_kept_states_go_if_memory_is_short(trained, monkeypatch):
    worker, sent, given, _ = trained
    train, calls = worker._train, []

    def short(*arguments):
        calls.append(worker._kept.bytes)
        if worker._kept.bytes or not given:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(*arguments)

    monkeypatch.setattr(worker, "_train", short)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    worker.train(1, [0, 1], sent, given)
    assert calls[0] > 0 and calls[1:] == [0]
    given.clear()
    with pytest.raises(torch.OutOfMemoryError):  # and not for ever
        worker.train(1, [0, 1], sent, [None, None])


@pytest.mark.parametrize("name, tasks", [("fedsmu", 1), ("dlion", 2)])  # a client's in a round
def test_states_are_found_again_in_the_rounds_of_a_run(name, tasks, monkeypatch):
    sections = {"federation": {"rounds": 3, "cohort": 12}, "algorithm": {"name": name}}
    problem, copied, digests = on_the_card(problem_of(**sections)), [], set()
    for room in (gpu.memory_to_keep, lambda share: 0):
        monkeypatch.setattr(gpu, "memory_to_keep", room)
        executor = InlineExecutor()
        with card() as used:
            executor.load(problem)
            for record in rounds(problem, executor):
                copied += [used.to_card] * (record.round == 2)
                used.clear()
        digests.add(executor.sha256())
    states = len(executor.worker.state_names) * 4 * problem.dim
    assert copied[1] - copied[0] == 12 * tasks * states and len(digests) == 1
