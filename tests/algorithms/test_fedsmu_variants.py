"""Variants of FedSMU against their exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch
from helpers.quadratics import (
    F64,
    Quadratics,
    normal,
    ragged_cohorts,
    random_cohorts,
    same,
    signs,
    simulate,
    start,
)

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.algorithms.registry import FedAvg, FedGlobalLion, FedLocalLion, FedSMU, FedSMUMC
from fedsmu_ray.wire.compressors import Quantizer

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
        M = 0.7 * M + 0.3 * (problem.local(cohort).sgd(trace.x[t]) - trace.x[t]).mean(0)
        torch.testing.assert_close(trace.servers[t + 1]["M"], M, rtol=1e-12, atol=1e-14)


def test_majority_of_one_is_fedsmu():  # [13]
    problem = Quadratics.random(1, steps=5)
    one, two = (
        simulate(FedSMU(vote=v, zero_rule="zero"), problem, start(), 40).x
        for v in ("majority", "mean")
    )
    same(one, two)


def test_majority_of_odd_cohorts_and_ties():  # [13]
    setting = Quadratics.random(2).setting(2)
    rounds = Round(1, (0, 1), setting, seed=0)
    odd = signs(5, 500).mean(0)
    assert set(rounds.sign(odd, "zero").tolist()) == {-1.0, 1.0}
    tied = torch.stack([signs(500), -signs(500)]).mean(0)  # two opposite voters
    assert not rounds.sign(tied, "zero").any()
    coins = rounds.sign(tied, "random")
    assert set(coins.tolist()) == {-1.0, 1.0} and abs(coins.mean()) < 0.2
    assert torch.equal(coins, rounds.sign(tied, "random"))
    assert not torch.equal(coins, Round(2, (0, 1), setting, seed=0).sign(tied, "random"))


def test_one_bit_of_the_quantiser_is_fedsmu():  # [14]
    v = normal(4, 7)
    v[0, :3] = 0.0
    local = Quadratics.random(4, sizes=(3, 4)).local(range(4))
    u = Quantizer((3, 4), 1, zero_level=False, zero_rule="plus").compress(v, local)
    assert torch.equal(u, local.sign(v, "plus").to(F64))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_error_and_symmetry_of_the_quantiser(bits):  # [14]
    v = normal(4, 70)
    local = Quadratics.random(4).local(range(4))
    code = Quantizer((30, 40), bits, zero_level=False, zero_rule="plus")
    u = code.compress(v, local)
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((30, 40), -1)], -1)
    # Half a cell of the input grid, and the levels are spread over [-1, 1] a little wider than the cells' centres.
    assert ((u - v / r).abs() <= 2 ** (1 - bits)).all()
    assert (u.abs().amax(-1) == 1).all()
    assert torch.equal(code.compress(-v, local), -u)
    assert code.size(70) == -(-70 * bits // 8)
    tread = Quantizer((30, 40), bits, zero_level=True).compress(v, local)
    assert ((tread - v / r).abs() <= 0.5 / (2 ** (bits - 1) - 1) + 1e-12).all()


@pytest.mark.parametrize(
    "zero_level, bits", [(False, 1), (False, 2), (False, 3), (True, 2), (True, 4)]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_stochastic_rounding_is_unbiased(zero_level, bits, scaled):
    v, draws = normal(1, 50).float(), 4000
    v[0, :3] = 0.0
    local = Quadratics.random(1).local([0])
    code = Quantizer((20, 30), bits, zero_level, stochastic=True, scaled=scaled)
    z = code.compress(v.expand(draws, -1), local)
    assert torch.equal(code.decode(code.encode(z), 50), z)
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((20, 30), -1)], -1)
    unit, mean = (r, v) if scaled else (1, v / r)
    z = z.double()
    assert ((z.mean(0) - mean).abs() <= 5 * z.std(0) / draws**0.5 + 1e-6).all()
    level = z / unit * code.top  # every value is a level next to where it belongs
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-5)
    assert ((z - mean).abs() <= (1 if zero_level else 2) * unit / code.top + 1e-6).all()


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
    assert not any(state for states in one.states for state in states.values())  # nothing to keep


def test_without_momentum_bits_are_those_of_a_momentum_that_is_not_read():
    class Keeping(FedSMU):  # as FedSMU was before it kept nothing
        def client_init(self, x):
            return {"m": torch.zeros_like(x)}

        def client(self, received, state, local):
            x, m = received["x"], state["m"]
            delta = local.sgd(x) - x
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
