"""FedAMS and FedCAMS compared with exact oracles (numbers in brackets), in float64."""

import pytest

from fedsmu_ray.algorithms.fedams import FedAMS, FedCAMS
from fedsmu_ray.algorithms.fedavg import FedAvg
from tests.helpers.quadratics import Quadratics, random_cohorts, same, simulate, start


def test_fedams_without_moments_is_fedavg():  # [25]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    one = simulate(FedAMS(beta1=0.0, beta2=1.0, eps=0.25, lr=0.3), problem, start(), 40, cohorts).x
    same(one, simulate(FedAvg(lr=0.3 / 0.25**0.5), problem, start(), 40, cohorts).x)


@pytest.mark.parametrize("method", [FedAMS(eps=1e-2), FedCAMS(eps=1e-2)])
def test_second_moment_never_falls_and_keeps_its_floor(method):  # [25]
    nu = [
        s["nuhat"]
        for s in simulate(
            method, Quadratics.random(6, steps=3), start(), 40, random_cohorts(6, 3, 40)
        ).servers
    ]
    assert all((b >= a).all() for a, b in zip(nu, nu[1:])) and all(
        (b >= 1e-2).all() for b in nu[1:]
    )


@pytest.mark.parametrize("options", [{}, {"stabiliser": "add"}, {"bias_correction": True}])
def test_fedcams_without_compression_is_fedams(options):  # [25]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    one = simulate(FedCAMS(compressor="none", **options), problem, start(), 40, cohorts).x
    same(one, simulate(FedAMS(**options), problem, start(), 40, cohorts).x)
