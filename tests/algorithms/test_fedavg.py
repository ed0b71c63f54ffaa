"""FedAvg compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import torch

from fedsmu_ray.algorithms.fedavg import FedAvg
from tests.helpers.quadratics import Quadratics, same, simulate, start


def test_fedavg_full_participation_is_gradient_descent():  # [17]
    problem, x = Quadratics.random(4, lr=0.1), start()
    expected = [x]
    for _ in range(20):
        expected.append(
            expected[-1]
            - 0.1 * problem.gradient(list(range(4)), expected[-1].expand(4, -1)).mean(0)
        )
    same(simulate(FedAvg(), problem, x, 20).x, expected)


def test_fedavg_of_identical_clients_is_one_client():  # [17]
    one = Quadratics.random(1, steps=5)
    many = Quadratics(one.a.repeat(4, 1), one.b.repeat(4, 1), steps=5)
    same(simulate(FedAvg(), one, start(), 10).x, simulate(FedAvg(), many, start(), 10).x)


def test_weighted_fedavg_is_gradient_descent_on_the_pooled_samples():  # [35]
    """One full-gradient step of each client: McMahan's weights give the gradient of all samples."""
    weights = (1, 4, 2, 5)
    problem, x = Quadratics.random(4, lr=0.1, weights=weights), start()
    expected, w = [x], torch.tensor(weights, dtype=x.dtype)
    for _ in range(20):
        gradients = problem.gradient(list(range(4)), expected[-1].expand(4, -1))
        expected.append(expected[-1] - 0.1 * (w @ gradients) / w.sum())
    same(simulate(FedAvg(), problem, x, 20).x, expected)
