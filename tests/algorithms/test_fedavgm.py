"""FedAvgM compared with exact oracles (numbers in brackets), in float64 on quadratics."""

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedavgm import FedAvgM
from tests.helpers.quadratics import Quadratics, random_cohorts, same, simulate, start


def test_without_momentum_is_fedavg():
    problem, cohorts = Quadratics.random(6, steps=4), random_cohorts(6, 3, 40)
    fedavg = simulate(FedAvg(), problem, start(), 40, cohorts).x
    same(simulate(FedAvgM(beta=0.0), problem, start(), 40, cohorts).x, fedavg)


def test_fedavgm_is_heavy_ball():
    problem, x = Quadratics.random(4, lr=0.1), start()
    xs = [x, x]  # x_0 = x_1
    for _ in range(20):
        gradient = problem.gradient(list(range(4)), xs[-1].expand(4, -1)).mean(0)
        xs.append(xs[-1] - 0.1 * gradient + 0.8 * (xs[-1] - xs[-2]))
    same(simulate(FedAvgM(beta=0.8), problem, x, 20).x, xs[1:])
