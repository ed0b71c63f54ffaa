"""What is decided before round 1."""

import pickle
from dataclasses import replace

import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation import problem, trainer
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.models.costs import Costs

IMPORTED = "import:tests.helpers.models:adaptive_pooling"


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


@pytest.mark.parametrize("model", [{"hidden": [16]}, {"name": IMPORTED}])
def test_other_processes_are_told_how_a_model_trains_fastest(model, monkeypatch):
    found = Problem.of(parse({"model": model, "federation": {"cohort": 10}}))
    wanted, group_size = ClientWorker(found).trainer, found.group_size
    sent = pickle.loads(pickle.dumps(found.with_dataset(None))).with_dataset(found.dataset)

    def refused(*_):
        raise AssertionError("it is found out again")

    monkeypatch.setattr(trainer, "batched", refused)
    monkeypatch.setattr(Costs, "of", refused)
    there = ClientWorker(sent).trainer
    assert there.plan == wanted.plan and there.format == wanted.format
    assert (there.gradient is None) == (wanted.gradient is None)
    assert sent.group_size == group_size


def weighted(monkeypatch, sizes):
    """A problem whose clients have these numbers of samples."""
    three = {"data": {"clients": len(sizes)}, "algorithm": {"name": "fedavg"}}
    federation = {"cohort": 1, "weighting": "samples"}
    parts = Problem.of(parse({**three, "federation": {"cohort": 1}})).partition
    changed = replace(parts, sizes=torch.tensor(sizes))
    monkeypatch.setattr(problem, "split", lambda *_: changed)
    return Problem.of(parse({**three, "federation": federation}))


def test_weights_are_the_numbers_of_samples_without_common_factor(monkeypatch):
    assert weighted(monkeypatch, [60, 90, 30]).weights.tolist() == [2, 3, 1]
    found = weighted(monkeypatch, [60, 90, 31])
    assert found.weights.tolist() == [60, 90, 31] and found.weights_of((2, 0)) == (31, 60)
    assert Problem.of(parse({})).weights is None


def test_weights_beyond_the_counters_are_refused(monkeypatch):
    assert weighted(monkeypatch, [2**29, 2**29 - 1]).weights is not None
    with pytest.raises(ConfigError, match=r"weighting = samples: .* add up to 1073741824"):
        weighted(monkeypatch, [2**29 + 1, 2**29 - 1])
