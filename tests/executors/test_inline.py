"""The executor in this process: what the user's code raises is an error of its task."""

import numpy as np
import pytest
import torch

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError, ExecutionError
from fedsmu_ray.executors.inline import InlineBackend
from fedsmu_ray.experiment.run import run
from fedsmu_ray.federation.client import ClientWorker
from tests.helpers.card import card


def run_inline(gpus, **sections):
    config = {
        "data": {"clients": 10, "partition": {"kind": "iid"}},
        "federation": {"rounds": 1, "cohort": 4},
        "compute": {"executor": "inline", "clients_per_task": 2, "gpus_per_actor": gpus},
        "tracking": {"uri": None},
    }
    return run(parse({**config, **sections}))


@pytest.mark.parametrize(
    "kind, message",
    [
        ("exits_for_large_batches", r"round 1, client.*: SystemExit: 0 \(.*odd_models.py:"),
        (
            "fails_in_large_evaluations",
            "evaluation on test samples 0 to 360: AssertionError: too m",
        ),
    ],
)
def test_what_a_model_raises_late_names_the_task(kind, message):
    model = {"name": "import:tests.helpers.odd_models:Forward", "options": {"kind": kind}}
    compute = {"executor": "inline", "clients_per_task": 1}
    with pytest.raises(ClientError, match=message):
        run_inline(0, model=model, compute=compute)


def test_a_run_in_this_process_may_use_a_card():
    with card() as used:
        result = run_inline(0.5)
    assert used.launches.total() > 100 and 0.4 < used.memory_fraction < 0.5
    assert np.array_equal(result.params, run_inline(0).params)


def test_a_card_evaluates_and_fine_tunes_clients_as_a_cpu_does():
    evaluation = {"clients": "all", "personalise": {"epochs": 1}}
    wanted = run_inline(0, evaluation=evaluation).summary
    with card():
        found = run_inline(0.5, evaluation=evaluation).summary
    names = [name for name in wanted if name.startswith("clients_")]
    assert len(names) == 10
    for name in names:
        assert found[name] == pytest.approx(wanted[name], rel=1e-5), name


@pytest.mark.parametrize("call", ["train", "evaluate", "evaluate_clients"])
def test_a_broken_gpu_ends_the_run(call, monkeypatch):
    def broken(*arguments):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")

    monkeypatch.setattr(ClientWorker, call, broken)
    with card(), pytest.raises(ExecutionError, match="assert triggered; CUDA repeats .*--resume"):
        run_inline(1, evaluation={"clients": "all"})


def test_a_trial_of_a_sweep_has_to_fit_the_cluster(ray_cluster):
    InlineBackend().check(ComputeConfig(actors=1000))  # it has no actors
    with pytest.raises(ExecutionError, match="needs 1 CPU, 1 GPU on one node"):
        InlineBackend().check(ComputeConfig(gpus_per_actor=1.0))
