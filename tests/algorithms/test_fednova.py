"""FedNova compared with exact oracles (number 36), in float64 on quadratics."""

import torch

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fednova import FedNova
from tests.helpers.quadratics import Quadratics, random_cohorts, same, simulate, start

WORK, WEIGHTS = (1, 8, 3, 20), (1, 4, 2, 5)


def test_fednova_with_equal_steps_is_fedavg():
    for weights in (None, WEIGHTS):
        problem, cohorts = Quadratics.random(4, steps=5, weights=weights), random_cohorts(4, 3, 10)
        one, other = (simulate(m, problem, start(), 10, cohorts).x for m in (FedNova(), FedAvg()))
        same(one, other)


def test_fednova_follows_the_papers_equations():
    """x <- x - tau_eff sum_i p_i eta G_i a_i / ||a_i||_1, with G_i the gradients of all steps."""
    problem = Quadratics.random(4, steps=20, work=WORK, weights=WEIGHTS)
    x = start()
    found = simulate(FedNova(lr=0.7), problem, x, 3).x
    p = torch.tensor(WEIGHTS, dtype=x.dtype) / sum(WEIGHTS)
    tau_eff = float(p @ torch.tensor(WORK, dtype=x.dtype))
    for after in found[1:]:
        d = torch.zeros_like(x)
        for i, steps in enumerate(WORK):
            y, gradients = x, torch.zeros_like(x)
            for _ in range(steps):
                g = problem.gradient([i], y[None])[0]
                y, gradients = y - problem.lr * g, gradients + g
            d += p[i] * gradients / steps
        x = x - 0.7 * tau_eff * problem.lr * d
        torch.testing.assert_close(after, x, rtol=1e-12, atol=1e-13)


def test_unequal_steps_move_the_limit_of_fedavg_but_not_of_fednova():
    """The paper's example: F_i = ||x - e_i||^2 / 2, K_i gradient steps, full participation.

    FedAvg ends in the mean of e_i with weights p_i (1 - (1 - eta)^K_i), for a small eta p_i K_i;
    the minimum is the mean with weights p_i.
    """
    random = Quadratics.random(4)
    problem = Quadratics(
        torch.ones_like(random.a), random.b, 2e-3, steps=20, work=WORK, weights=WEIGHTS
    )
    p, steps = (torch.tensor(numbers, dtype=random.b.dtype) for numbers in (WEIGHTS, WORK))
    pulls = p * (1 - (1 - problem.lr) ** steps)

    def mean(weights):
        return weights @ problem.b / weights.sum()

    fedavg, fednova = (simulate(m, problem, start(), 900).x[-1] for m in (FedAvg(), FedNova()))
    torch.testing.assert_close(fedavg, mean(pulls), rtol=0, atol=1e-7)
    torch.testing.assert_close(fednova, mean(pulls / steps), rtol=0, atol=1e-7)
    apart = (fedavg - mean(p)).norm()
    assert apart > 0.1 and (fednova - mean(p)).norm() < 0.05 * apart


def test_the_mean_of_the_steps_has_the_weights_of_the_round():
    setting = Quadratics.random(4, steps=9).setting(3)
    assert Round(1, (0, 1, 3), setting, 0).mean_steps == 9
    assert Round(1, (0, 1, 3), setting, 0, None, (1, 2, 9)).mean_steps == 4
    assert Round(1, (0, 1, 3), setting, 0, (2, 1, 1), (1, 3, 7)).mean_steps == 3
