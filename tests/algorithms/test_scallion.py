"""SCALLION compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest

from fedsmu_ray.algorithms.scaffold import Scaffold
from fedsmu_ray.algorithms.scallion import Scallion
from tests.helpers.quadratics import (
    Quadratics,
    mean_over_clients,
    ragged_cohorts,
    random_cohorts,
    same,
    simulate,
    start,
)


def test_scallion_without_compression_is_scaffold():  # [20]
    problem, cohorts = Quadratics.random(6, steps=4), random_cohorts(6, 3, 40)
    one, two = (
        simulate(method, problem, start(), 40, cohorts)
        for method in (Scallion(bits=32), Scaffold())
    )
    same(one.x, two.x, rtol=1e-10)


@pytest.mark.parametrize(
    "method", [Scallion(), Scallion(alpha=0.3, bits=2), Scallion(bits=32, alpha=0.5)]
)
def test_server_variate_is_the_mean_of_the_clients(method):  # [20]
    problem = Quadratics.random(6, steps=4, sizes=(3, 4), weight_decay=0.01, clip_norm=1.0)
    trace = simulate(method, problem, start(), 40, ragged_cohorts(6, 3, 40))
    same([server["c"] for server in trace.servers], mean_over_clients(trace, "c"), atol=1e-12)
