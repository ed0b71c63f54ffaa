"""Algorithms 2 to 4 of the FedSMU paper compared with exact oracles (numbers in brackets)."""

import pytest
import torch

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.algorithms.fedsmu_variants import FedGlobalLion, FedLocalLion, FedSMUMC
from tests.helpers.quadratics import (
    F64,
    Quadratics,
    ragged_cohorts,
    random_cohorts,
    same,
    simulate,
    start,
)

BETAS = {"beta1": 0.9, "beta2": 0.7}


@pytest.mark.parametrize("steps", [1, 5])
def test_momentum_completed_with_one_client_is_fedsmu(steps):  # [12]
    problem, options = (
        Quadratics.random(1, steps=steps),
        {**BETAS, "gamma1": 0.02, "gamma2": 0.1, "zero_rule": "zero"},
    )
    same(
        simulate(FedSMUMC(**options), problem, start(), 40).x,
        simulate(FedSMU(**options), problem, start(), 40).x,
    )


def test_global_momentum_is_the_average_of_displacements():  # [12]
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    trace = simulate(FedSMUMC(**BETAS), problem, start(), 40, cohorts)
    M = torch.zeros(7, dtype=F64)
    for t, cohort in enumerate(cohorts):
        M = 0.7 * M + 0.3 * (problem.local(cohort).train(trace.x[t]) - trace.x[t]).mean(0)
        torch.testing.assert_close(trace.servers[t + 1]["M"], M, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "method",
    [
        *(
            FedSMU(gamma1=0.05, gamma2=0.5, **options)
            for options in (
                {"vote": "majority"},
                {"bits": 3},
                {"bits": 4, "zero_rule": "zero"},
                {"bits": 2, "group": "model"},
                {"bits": 1, "rounding": "stochastic"},
                {"bits": 3, "rounding": "stochastic"},
            )
        ),
        FedSMUMC(gamma1=0.05, gamma2=0.5),
        FedGlobalLion(gamma1=0.05, gamma2=0.5),
    ],
    ids=repr,
)
def test_steps_of_at_most_one_stay_in_the_box(method):  # [14], [5]
    problem = Quadratics.random(6, sizes=(3, 4), steps=3)
    xs = simulate(method, problem, start().clamp(-2, 2), 60, ragged_cohorts(6, 3, 60)).x
    assert all(x.abs().max() <= 2 + 1e-12 for x in xs)


def test_local_lion_without_its_step_is_fedavg():  # [16]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    one = simulate(FedLocalLion(gamma1=0.0, lr=0.7), problem, start(), 40, cohorts).x
    same(one, simulate(FedAvg(lr=0.7), problem, start(), 40, cohorts).x)


@pytest.mark.parametrize("steps", [1, 5])
def test_global_lion_of_one_client_is_fedsmu(steps):  # [16]
    problem, options = (
        Quadratics.random(1, steps=steps),
        {**BETAS, "gamma1": 0.02, "gamma2": 0.1, "zero_rule": "zero"},
    )
    same(
        simulate(FedGlobalLion(**options), problem, start(), 40).x,
        simulate(FedSMU(**options), problem, start(), 40).x,
    )
