"""FedSMU against the exact oracles of its specification (numbers in brackets), in float64 on quadratics."""

import pytest
import torch
from helpers.quadratics import F64, Quadratics, lion, random_cohorts, simulate, start

from fedsmu_ray.algorithms.registry import FedSMU

CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def smu(**fields):
    return FedSMU(**{"zero_rule": "zero", **fields})


@pytest.mark.parametrize("lr", [1e-4, 0.05, 3.0])
def test_one_client_one_step_is_lion(lr):  # [1], [2]: any local rate
    problem = Quadratics.random(1, lr=lr)
    got = simulate(smu(beta1=0.9, beta2=0.99, gamma1=0.02, gamma2=0.1), problem, start(), 40).x
    for a, b in zip(got, lion(problem, start(), 40, 0.02, 0.1, 0.9, 0.99)):
        torch.testing.assert_close(a, b, **CLOSE)


def test_equal_betas_send_the_sign_of_the_new_momentum():  # [3]
    trace = simulate(
        smu(beta1=0.9, beta2=0.9),
        Quadratics.random(6, steps=3),
        start(),
        40,
        random_cohorts(6, 3, 40),
    )
    for t, uploads in enumerate(trace.uploads):
        for i, upload in uploads.items():
            assert torch.equal(upload["u"].to(F64), torch.sign(trace.states[t + 1][i]["m"]))


def test_recurrence_of_the_transmitted_direction():  # [4] v = beta2 v' + (beta1 - beta2) delta' + (1 - beta1) delta
    b1, b2 = 0.9, 0.7
    problem, rounds = Quadratics.random(6, steps=3), 40
    trace = simulate(
        smu(beta1=b1, beta2=b2), problem, start(), rounds, random_cohorts(6, 3, rounds)
    )
    last, checked = {}, 0
    for t, uploads in enumerate(trace.uploads):
        for i, upload in uploads.items():
            delta = problem.local([i]).sgd(trace.x[t])[0] - trace.x[t]
            v = b1 * trace.states[t][i]["m"] + (1 - b1) * delta
            assert torch.equal(torch.sign(v).to(torch.int8), upload["u"])
            if i in last:
                v0, delta0 = last[i]
                torch.testing.assert_close(
                    v, b2 * v0 + (b1 - b2) * delta0 + (1 - b1) * delta, **CLOSE
                )
                checked += 1
            last[i] = v, delta
    assert checked > 60


def test_box_step_and_contraction_bounds():  # [5]
    g1, g2 = 0.05, 0.5
    inside = simulate(smu(gamma1=g1, gamma2=g2), Quadratics.random(6), start().clamp(-2, 2), 200).x
    for a, b in zip(inside, inside[1:]):
        assert b.abs().max() <= 1 / g2 + 1e-12
        assert ((b - a).abs() <= g1 * (1 + g2 * a.abs()) + 1e-12).all()
    outside = simulate(
        smu(gamma1=g1, gamma2=g2), Quadratics.random(6), torch.full((7,), 50.0, dtype=F64), 20
    ).x
    for a, b in zip(outside, outside[1:]):
        assert (b.abs() - 1 / g2 <= (1 - g1 * g2) * (a.abs() - 1 / g2) + 1e-12).all()


def test_absent_clients_keep_their_momentum_and_do_not_matter():  # [6]
    cohorts = [[0, 1], [0, 2], [1, 2], [0, 1], [3, 4], [0, 3]]
    problem, other = Quadratics.random(5), Quadratics.random(5)
    other.b[4] += 1.0  # client 4 is first sampled in round 5
    one, two = (simulate(smu(), p, start(), 6, cohorts) for p in (problem, other))
    for t, cohort in enumerate(cohorts):
        for i in set(range(5)) - set(cohort):
            assert torch.equal(one.states[t][i]["m"], one.states[t + 1][i]["m"])
    assert all(torch.equal(one.x[t], two.x[t]) for t in range(5))
    assert not torch.equal(one.states[5][4]["m"], two.states[5][4]["m"])


@pytest.mark.parametrize("rule", ["plus", "random"])
def test_votes_are_integers_with_the_parity_of_the_cohort(rule):  # [7]
    problem = Quadratics.random(5)
    problem.a[:, :3] = 0.0  # exact zeros, for the zero rule to decide
    trace = simulate(smu(zero_rule=rule), problem, start(), 5)
    for uploads in trace.uploads:
        votes = torch.stack([u["u"] for u in uploads.values()]).sum(0)
        assert ((votes - 5) % 2 == 0).all() and (votes.abs() <= 5).all()


def test_permuting_clients_changes_nothing():  # [7]
    problem, order = Quadratics.random(5), [3, 0, 4, 1, 2]
    permuted = Quadratics(problem.a[order], problem.b[order])
    for a, b in zip(
        simulate(smu(), problem, start(), 30).x, simulate(smu(), permuted, start(), 30).x
    ):
        assert torch.equal(a, b)


def test_special_steps():  # [8]
    problem, x = Quadratics.random(5), start()
    assert torch.equal(simulate(smu(gamma1=0.0), problem, x, 3).x[-1], x)
    free = simulate(smu(gamma1=0.01, gamma2=0.0), problem, x, 30).x
    assert all(((b - a).abs() <= 0.01 + 1e-15).all() for a, b in zip(free, free[1:]))
    flat = Quadratics(torch.zeros(5, 7, dtype=F64), torch.zeros(5, 7, dtype=F64))
    assert torch.equal(simulate(smu(gamma1=0.5, gamma2=2.0), flat, x, 1).x[-1], torch.zeros_like(x))


def test_decay_scales_step_and_weight_decay():  # [9]
    flat = Quadratics(torch.zeros(4, 7, dtype=F64), torch.zeros(4, 7, dtype=F64))
    g1, g2, rho, rounds = 0.1, 0.3, 0.9, 25
    product = 1.0
    for t in range(rounds):
        product *= 1 - g1 * rho**t * g2
    got = simulate(smu(gamma1=g1, gamma2=g2, decay=rho), flat, start(), rounds).x[-1]
    torch.testing.assert_close(got, product * start(), **CLOSE)
