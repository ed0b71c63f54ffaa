"""Variants of FedSMU against their exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch
from harness import F64, Quadratics, normal, random_cohorts, same, signs, simulate, start

from fedsmu_ray.algorithms import FedAvg, FedGlobalLion, FedLocalLion, FedSMU, FedSMUMC
from fedsmu_ray.compressors import Quantiser
from fedsmu_ray.setting import Round

BETAS = {"beta1": 0.9, "beta2": 0.7}


def test_momentum_completed_with_one_client_is_fedsmu():  # [12]
    problem, options = Quadratics.random(1, steps=5), {**BETAS, "gamma1": 0.02, "gamma2": 0.1, "zero_rule": "zero"}
    same(simulate(FedSMUMC(**options), problem, start(), 40).x, simulate(FedSMU(**options), problem, start(), 40).x)


def test_global_momentum_is_the_average_of_displacements():  # [12]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    trace = simulate(FedSMUMC(**BETAS), problem, start(), 40, cohorts)
    M = torch.zeros(7, dtype=F64)
    for t, cohort in enumerate(cohorts):
        M = 0.7 * M + 0.3 * (problem.local(cohort).sgd(trace.x[t]) - trace.x[t]).mean(0)
        torch.testing.assert_close(trace.servers[t + 1]["M"], M, rtol=1e-12, atol=1e-14)


def test_majority_of_one_is_fedsmu():  # [13]
    problem = Quadratics.random(1, steps=5)
    one, two = (simulate(FedSMU(vote=v, zero_rule="zero"), problem, start(), 40).x for v in ("majority", "mean"))
    same(one, two)


def test_majority_of_odd_cohorts_and_ties():  # [13]
    setting = Quadratics.random(2).setting(2)
    rounds = Round(1, (0, 1), setting, seed=0)
    odd = signs(5, 500).mean(0)
    assert set(rounds.sign(odd, "zero").tolist()) == {-1.0, 1.0}
    tied = torch.zeros(500)
    assert not rounds.sign(tied, "zero").any()
    coins = rounds.sign(tied, "random")
    assert set(coins.tolist()) == {-1.0, 1.0} and abs(coins.mean()) < 0.2
    assert torch.equal(coins, rounds.sign(tied, "random"))
    assert not torch.equal(coins, Round(2, (0, 1), setting, seed=0).sign(tied, "random"))


def test_one_bit_of_the_quantiser_is_fedsmu():  # [14]
    v = normal(4, 7)
    v[0, :3] = 0.0
    local = Quadratics.random(4, sizes=(3, 4)).local(range(4))
    u = Quantiser((3, 4), 1, zero_level=False, zero_rule="plus").compress(v, local)
    assert torch.equal(u, local.sign(v, "plus").to(F64))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_error_and_symmetry_of_the_quantiser(bits):  # [14]
    v = normal(4, 70)
    local = Quadratics.random(4).local(range(4))
    code = Quantiser((30, 40), bits, zero_level=False, zero_rule="plus")
    u = code.compress(v, local)
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((30, 40), -1)], -1)
    # Half a cell of the input grid, and the levels are spread over [-1, 1] a little wider than the cells' centres.
    assert ((u - v / r).abs() <= 2 ** (1 - bits)).all()
    assert (u.abs().amax(-1) == 1).all()
    assert torch.equal(code.compress(-v, local), -u)
    assert code.size(70) == -(-70 * bits // 8)
    tread = Quantiser((30, 40), bits, zero_level=True).compress(v, local)
    assert ((tread - v / r).abs() <= 0.5 / (2 ** (bits - 1) - 1) + 1e-12).all()


@pytest.mark.parametrize("options", [{"bits": 3}, {"bits": 3, "scaled": True}, {"bits": 4, "zero_rule": "zero"},
                                     {"bits": 2, "group": "model"}])
def test_multi_bit_fedsmu_stays_in_the_box(options):  # [14], [5]
    problem = Quadratics.random(6, sizes=(3, 4), steps=3)
    xs = simulate(FedSMU(gamma1=0.05, gamma2=0.5, **options), problem, start().clamp(-2, 2), 60, random_cohorts(6, 3, 60)).x
    assert all(x.abs().max() <= 2 + 1e-12 for x in xs)


def test_full_precision_without_momentum_is_fedavg():  # [15]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    full = FedSMU(bits=32, beta1=0.0, gamma1=1.0, gamma2=0.0)
    same(simulate(full, problem, start(), 40, cohorts).x, simulate(FedAvg(), problem, start(), 40, cohorts).x)


def test_without_momentum_beta2_does_not_matter():  # [15]
    problem = Quadratics.random(6, steps=3)
    one, two = (simulate(FedSMU(beta1=0.0, beta2=b, zero_rule="zero"), problem, start(), 40).x for b in (0.0, 0.99))
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_local_lion_without_its_step_is_fedavg():  # [16]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    one = simulate(FedLocalLion(gamma1=0.0, lr=0.7), problem, start(), 40, cohorts).x
    same(one, simulate(FedAvg(lr=0.7), problem, start(), 40, cohorts).x)


def test_global_lion_of_one_client_is_fedsmu():  # [16]
    problem, options = Quadratics.random(1, steps=5), {**BETAS, "gamma1": 0.02, "gamma2": 0.1, "zero_rule": "zero"}
    same(simulate(FedGlobalLion(**options), problem, start(), 40).x, simulate(FedSMU(**options), problem, start(), 40).x)
