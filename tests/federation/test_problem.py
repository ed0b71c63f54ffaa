"""What is decided before round 1."""

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.federation import problem
from fedsmu_ray.federation.problem import Problem


def problem_of(**compute):
    compute = {"executor": "inline", "gpus_per_actor": 1.0, **compute}
    return Problem.of(parse({"federation": {"cohort": 10}, "compute": compute}))


@pytest.mark.parametrize(
    "share, size", [(2.0, 10), (1.0, 10), (0.7, 10), (0.5, 5), (0.25, 3), (0.1, 1)]
)
def test_a_card_has_a_group_for_each_of_its_actors(share, size):
    assert problem_of(gpus_per_actor=share).group_size == size
    assert problem_of(gpus_per_actor=share, clients_per_task=4).group_size == 4


@pytest.mark.parametrize("room, size", [(7.5, 7), (0.5, 1), (100, 10)])
def test_groups_fit_the_memory_of_the_card(room, size, monkeypatch):
    """room: for so many clients."""
    few = problem_of()
    kept = 4 * (64 + 200 + 200) * few.config.local.batch_size
    client = 4 * problem.GPU_VECTORS * few.dim + 2 * kept
    monkeypatch.setattr(problem, "GPU_BYTES", int(room * client))
    assert few.group_size == size
    assert problem_of(gpus_per_actor=0.5).group_size == max(1, min(5, int(room / 2)))


@pytest.mark.parametrize(
    "model, algorithm, size",
    [
        ({"name": "mlp", "hidden": [2000]}, "fedavg", 3),  # of four tasks
        ({"name": "mlp", "hidden": [2000]}, "fedsmu", 1),  # each with a state of its own
        ({"name": "mlp", "hidden": [16]}, "fedsmu", 10),
        ({"name": "mlp", "hidden": [20000]}, "fedavg", 1),
    ],
)
def test_groups_on_a_cpu(model, algorithm, size):
    config = {"model": model, "algorithm": {"name": algorithm}, "federation": {"cohort": 10}}
    assert Problem.of(parse(config)).group_size == size
