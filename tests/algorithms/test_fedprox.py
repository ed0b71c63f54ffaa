"""FedProx compared with exact oracles (numbers in brackets), in float64 on quadratics."""

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedprox import FedProx
from tests.helpers.quadratics import Quadratics, random_cohorts, same, simulate, start


def test_without_the_proximal_term_is_fedavg():
    problem, cohorts = Quadratics.random(6, steps=4), random_cohorts(6, 3, 40)
    fedavg = simulate(FedAvg(), problem, start(), 40, cohorts).x
    same(simulate(FedProx(mu=0.0), problem, start(), 40, cohorts).x, fedavg)


def test_fedprox_solves_the_proximal_problem():
    """Many local steps reach argmin F_i(y) + mu / 2 ||y - x||^2 = (a b + mu x) / (a + mu)."""
    problem, x = Quadratics.random(3, steps=400, lr=0.2), start()
    expected = (problem.a * problem.b + 0.5 * x) / (problem.a + 0.5)
    same(simulate(FedProx(mu=0.5), problem, x, 1).x[1:], [expected.mean(0)])
