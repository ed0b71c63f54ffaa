"""D-Lion compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch

from fedsmu_ray.algorithms.dlion import DLion
from fedsmu_ray.algorithms.fedsmu import FedSMU
from tests.helpers.quadratics import F64, Quadratics, lion, ragged_cohorts, same, simulate, start

DLION = {"beta1": 0.9, "beta2": 0.7, "lr": 0.02, "weight_decay": 0.1, "zero_rule": "zero"}


SMU = FedSMU(beta1=0.9, beta2=0.7, gamma1=0.02, gamma2=0.1, zero_rule="zero")


@pytest.mark.parametrize("relay", ["participants", "all"])
@pytest.mark.parametrize("steps", [1, 5])
def test_dlion_under_full_participation_is_fedsmu(relay, steps):  # [27]
    problem = Quadratics.random(5, steps=steps)
    trace, smu = (
        simulate(DLion(relay=relay, **DLION), problem, start(), 40),
        simulate(SMU, problem, start(), 40),
    )
    same(trace.x, smu.x)
    for states, x in zip(trace.states, smu.x):
        same([s["x"] for s in states.values()], [x] * 5)


def test_dlion_relayed_to_all_is_fedsmu_at_any_participation():  # [27]
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    trace = simulate(DLion(relay="all", **DLION), problem, start(), 40, cohorts)
    smu = simulate(SMU, problem, start(), 40, cohorts)
    same(trace.x, smu.x)
    same([states[0]["x"] for states in trace.states], smu.x)


@pytest.mark.parametrize("vote", ["mean", "majority"])
def test_dlion_models_differ_under_partial_participation(vote):  # [27]
    problem = Quadratics.random(4, steps=3)
    trace = simulate(
        DLion(vote=vote, **DLION), problem, start(), 30, [[0, 1, 2]] * 10 + ragged_cohorts(4, 3, 20)
    )
    assert torch.equal(trace.states[10][3]["x"], start())  # never sampled so far
    assert not torch.equal(trace.states[-1][0]["x"], trace.states[-1][3]["x"])
    # The server evaluates the mean of the models that the clients actually have.
    for x, states in zip(trace.x, trace.states):
        torch.testing.assert_close(
            x, torch.stack([s["x"] for s in states.values()]).mean(0), rtol=1e-12, atol=1e-13
        )


def test_dlion_of_one_worker_is_lion():  # [28]
    problem = Quadratics.random(1)
    got = simulate(DLion(vote="majority", **DLION), problem, start(), 40).x
    same(got, lion(problem, start(), 40, 0.02, 0.1, 0.9, 0.7))


@pytest.mark.parametrize("options", [{}, {"vote": "majority"}, {"relay": "all"}])
def test_dlion_with_lion_of_one_step_is_the_original(options):
    """With one local step both solvers use the same gradient and send the same signs."""
    problem, cohorts = Quadratics.random(5), ragged_cohorts(5, 3, 40)
    one, two = (
        simulate(DLion(local=local, **DLION, **options), problem, start(), 40, cohorts).x
        for local in ("sgd", "lion")
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_dlion_with_lion_sends_the_sign_of_its_steps():
    problem, x, m = Quadratics.random(1, steps=5), start(), torch.zeros(7, dtype=F64)
    trace = simulate(DLion(local="lion", **DLION), problem, x, 10)
    for t in range(10):
        y, total = x, torch.zeros_like(x)
        for _ in range(5):
            g = problem.gradient([0], y[None])[0]
            w, m = torch.sign(0.9 * m + 0.1 * g), 0.7 * m + 0.3 * g
            y, total = y - 0.05 * w, total + w
        x = x - 0.02 * (torch.sign(total) + 0.1 * x)
        torch.testing.assert_close(trace.states[t + 1][0]["m"], m, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(trace.x[t + 1], x, rtol=1e-12, atol=1e-13)


def test_dlion_shadow_takes_every_step():
    """The shadow model changes only what is evaluated.

    Under full participation, where no model is stale, it equals the model of every client.
    """
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    mean, shadow = (
        simulate(DLion(evaluated=e, **DLION), problem, start(), 40, cohorts)
        for e in ("mean", "shadow")
    )
    x = start()
    for t in range(40):
        assert torch.equal(mean.states[t + 1][0]["x"], shadow.states[t + 1][0]["x"])
        x = x - 0.02 * (shadow.servers[t + 1]["votes"] / len(cohorts[t]) + 0.1 * x)
        torch.testing.assert_close(shadow.x[t + 1], x, rtol=1e-12, atol=1e-13)
    assert not torch.equal(mean.x[-1], shadow.x[-1])
    one, two = (
        simulate(DLion(evaluated=e, **DLION), problem, start(), 20).x for e in ("mean", "shadow")
    )
    same(one, two)
