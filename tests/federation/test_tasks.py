"""Client tasks as plain data: where the new states of their clients are."""

import numpy as np
import pytest

from fedsmu_ray.federation.tasks import (
    EvaluateClients,
    Train,
    describe_task,
    in_shards,
    shard_count,
    state_refs,
)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9, None])
def test_a_state_is_where_its_reference_says(rows):
    states = {name: np.random.rand(5, 3) for name in "ab"}
    task = Train(1, 0, (7, 1, 9, 0, 3), (None,) * 5)
    shards = in_shards(states, rows)
    assert len(shards) == shard_count(5, rows)
    found = state_refs(task, shards, rows)
    assert list(found) == (list(task.clients) if rows else [])
    for i, ref in enumerate(found.values()):
        for name, array in states.items():
            assert (ref.shard[name][ref.row] == array[i]).all() and len(ref.shard[name]) <= rows


def test_an_evaluation_on_clients_is_named_by_the_round_of_its_model():
    assert describe_task(EvaluateClients(4, (7,))) == "evaluation after round 3, client 7"
    many = describe_task(EvaluateClients(1, tuple(range(20))))
    assert many == "evaluation after round 0, clients 0, 1, 2, 3, 4, 5, 6, 7 ... (20 in all)"
