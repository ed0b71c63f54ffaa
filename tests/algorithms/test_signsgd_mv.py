"""signSGD-MV and Signum compared with exact oracles (numbers in brackets), in float64."""

import pytest
import torch

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.algorithms.signsgd_mv import SignSGDMV
from tests.helpers.quadratics import F64, Quadratics, same, signs, simulate, start


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_signsgd_of_one_worker(beta):  # [28]
    problem, x = Quadratics.random(1), start()
    m, expected = torch.zeros_like(x), [x]
    for _ in range(40):
        m = beta * m + (1 - beta) * problem.gradient([0], x[None])[0]
        x = x - 0.03 * (torch.sign(m) + 0.1 * x)
        expected.append(x)
    method = SignSGDMV(lr=0.03, beta=beta, weight_decay=0.1, zero_rule="zero")
    same(simulate(method, problem, start(), 40).x, expected)


def test_signum_without_momentum_keeps_nothing():  # [28]
    problem, method = Quadratics.random(2), SignSGDMV(beta=0.0)
    uploads = [
        method.client({"x": start()}, {"m": m.expand(2, -1)}, problem.local([0, 1]))[0]["u"]
        for m in (torch.zeros(7, dtype=F64), torch.full((7,), 100.0, dtype=F64))
    ]
    assert torch.equal(*uploads)
    assert method.client_init(start()) == {}


def test_a_minority_of_flipped_votes_changes_nothing():  # [28]
    votes = signs(100)
    rounds = Round(1, tuple(range(5)), Quadratics.random(5).setting(5), seed=0)
    for flipped in (0, 1, 2):
        mean = torch.stack([-votes] * flipped + [votes] * (5 - flipped)).mean(0)
        assert torch.equal(rounds.sign(mean, "zero"), votes)
