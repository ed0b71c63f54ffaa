"""Client tasks as plain data: where the new states of their clients are."""

import numpy as np
import pytest

from fedsmu_ray.federation.tasks import Train, in_shards, shard_count, state_refs


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
