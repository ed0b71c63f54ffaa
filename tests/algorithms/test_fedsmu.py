"""FedSMU compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.config.reference import lenet_setting
from tests.helpers.quadratics import F64, Quadratics, lion, random_cohorts, same, simulate, start

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


# [4] v = beta2 v' + (beta1 - beta2) delta' + (1 - beta1) delta
def test_recurrence_of_the_transmitted_direction():
    b1, b2 = 0.9, 0.7
    problem, rounds = Quadratics.random(6, steps=3), 40
    trace = simulate(
        smu(beta1=b1, beta2=b2), problem, start(), rounds, random_cohorts(6, 3, rounds)
    )
    last, checked = {}, 0
    for t, uploads in enumerate(trace.uploads):
        for i, upload in uploads.items():
            delta = problem.local([i]).train(trace.x[t])[0] - trace.x[t]
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
    problem.a[:, :3] = 0.0  # exact zeros, whose signs the zero rule decides
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


def test_majority_of_one_is_fedsmu():  # [13]
    problem = Quadratics.random(1, steps=5)
    one, two = (
        simulate(FedSMU(vote=v, zero_rule="zero"), problem, start(), 40).x
        for v in ("majority", "mean")
    )
    same(one, two)


def test_full_precision_without_momentum_is_fedavg():  # [15]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    full = FedSMU(bits=32, beta1=0.0, gamma1=1.0, gamma2=0.0)
    same(
        simulate(full, problem, start(), 40, cohorts).x,
        simulate(FedAvg(), problem, start(), 40, cohorts).x,
    )


def test_without_momentum_beta2_does_not_matter():  # [15]
    problem = Quadratics.random(6, steps=3)
    one, two = (
        simulate(FedSMU(beta1=0.0, beta2=b, zero_rule="zero"), problem, start(), 40)
        for b in (0.0, 0.99)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.x, two.x))
    assert not any(state for states in one.states for state in states.values())  # no state is kept


def test_without_momentum_the_bits_equal_those_with_an_unused_momentum():
    class Keeping(FedSMU):  # keeps a momentum that beta1 = 0 never reads
        def client_init(self, x):
            return {"m": torch.zeros_like(x)}

        def client(self, received, state, local):
            x, m = received["x"], state["m"]
            delta = local.train(x) - x
            u = self.uplink(local.setting)["u"].compress(
                self.beta1 * m + (1 - self.beta1) * delta, local
            )
            return {"u": u}, {"m": self.beta2 * m + (1 - self.beta2) * delta}

    cohorts = random_cohorts(6, 3, 40)
    for options in ({}, {"bits": 3}, {"bits": 32, "gamma1": 0.5}):
        one, two = (
            simulate(
                cls(beta1=0.0, **options), Quadratics.random(6, steps=3), start(), 40, cohorts
            ).x
            for cls in (FedSMU, Keeping)
        )
        assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_a_client_of_fedsmu_costs_4_2_bits_at_a_tenth_of_the_downlink():  # [30]
    setting = lenet_setting()
    method = FedSMU()
    up, down = (
        8 * sum(c.size(setting.dim) for c in sent(setting).values())
        for sent in (method.uplink, method.downlink)
    )
    assert (up + 0.1 * down) / setting.dim == pytest.approx(4.2, abs=1e-5)
