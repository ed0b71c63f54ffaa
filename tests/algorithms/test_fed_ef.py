"""Fed-EF compared with exact oracles (numbers in brackets), in float64 on quadratics."""

from fedsmu_ray.algorithms.fed_ef import FedEF
from fedsmu_ray.algorithms.fedavg import FedAvg
from tests.helpers.quadratics import Quadratics, random_cohorts, same, simulate, start


def test_fed_ef_without_compression_is_fedavg():  # [21]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    trace = simulate(FedEF(compressor="none"), problem, start(), 40, cohorts)
    same(trace.x, simulate(FedAvg(), problem, start(), 40, cohorts).x)
    assert all(state["e"].abs().max() < 1e-14 for state in trace.states[-1].values())
