"""FedAvg compared with exact oracles (numbers in brackets), in float64 on quadratics."""

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
