"""Every method on Ray actors: the same bits as in one process, feedback included."""

import pytest

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.validation import parse
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds
from tests.helpers.experiments import inline_executor

CASES = [
    *({"name": name} for name in METHODS),
    {"name": "dlion", "relay": "all", "vote": "majority"},
]
TASKS = {  # loss and metrics by the kind of targets
    "classes": ("cross_entropy", ["f1_macro", "auroc"]),
    "multi_hot": ("bce_with_logits", ["exact_match", "average_precision"]),
    "values": ("import:torch.nn:SmoothL1Loss", ["mae", "r2"]),
}


def problem_of(algorithm, sigma=0.0, epochs=1, weighting="uniform", **more):
    return Problem.of(
        parse(
            {
                "data": {"clients": 12, "partition": {"sigma": sigma}},
                "model": {"hidden": [16]},
                "algorithm": algorithm,
                "local": {"epochs": epochs, "lr": 0.02},
                "federation": {
                    "rounds": 3,
                    "cohort": 5,
                    "eval_every": 2,
                    "weighting": weighting,
                },
                "compute": {"clients_per_task": 2, "cpus_per_actor": 0.25},
                **more,
            }
        )
    )


def outcome(problem, executor):
    keys = (
        "cohort",
        "train_loss",
        "test_accuracy",
        "test_loss",
        "uplink_bytes",
        "downlink_bytes",
        "uniformity",
        "scores",
    )
    return [[getattr(r, k) for k in keys] for r in rounds(problem, executor)], executor.sha256()


@pytest.fixture(
    scope="module", params=[2, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 4))]
)
def executor(ray_cluster, request):
    from fedsmu_ray.executors.ray_executor import RayExecutor

    executor = RayExecutor(problem_of(CASES[0]).config.compute, request.param)
    yield executor
    executor.close()


@pytest.mark.parametrize("algorithm", CASES, ids=str)
def test_same_bits_on_actors(algorithm, executor):
    same_bits(problem_of(algorithm), executor)


@pytest.mark.parametrize("name", ["fedavg", "fednova", "fedsmu", "scaffold"])
def test_same_bits_with_weights_and_unequal_work(name, executor):
    weighting = "uniform" if METHODS[name].uniform_only else "samples"
    same_bits(problem_of({"name": name}, 1.0, {"uniform": [1, 4]}, weighting), executor)


def same_bits(problem, executor):
    inline = inline_executor(problem)
    try:
        expected = outcome(problem, inline)
    finally:
        inline.close()
    executor.load(problem)
    assert outcome(problem, executor) == expected
    return expected


@pytest.mark.parametrize("kind", TASKS)
def test_same_metrics_on_actors(kind, executor):
    """Slices of 2,000 samples are evaluated by different actors."""
    loss, metrics = TASKS[kind]
    options = {"targets": kind, "train": 240, "test": 5000, "shape": [4]}
    data = {"clients": 12, "dataset": "synthetic", "options": options, "validation": 0.1}
    problem = problem_of(CASES[0], data=data, task={"loss": loss, "metrics": metrics})
    records, _ = same_bits(problem, executor)
    names = {f"{part}/{name}" for part in ("val", "test") for name in metrics}
    assert records[-1][-1].keys() == names


def test_same_choices_on_actors(executor):
    """The losses of candidates are computed by the actors before they train."""
    federation = {"rounds": 3, "cohort": 4, "sampling": "power_of_choice", "candidates": 9}
    problem = problem_of({"name": "fedsmu"}, sigma=0.6, federation=federation)
    records, _ = same_bits(problem, executor)
    assert len({record[0] for record in records}) > 1
