"""FedLion compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch

from fedsmu_ray.algorithms.fedlion import FedLion
from tests.helpers.quadratics import Quadratics, lion, random_cohorts, same, simulate, start


@pytest.mark.parametrize("steps", [1, 5])
def test_fedlion_of_one_client_is_lion(steps):  # [26]
    problem = Quadratics.random(1, steps=steps, lr=0.02)
    expected = lion(problem, start(), 40 * steps, 0.02, 0.0, 0.9, 0.99)[::steps]
    same(simulate(FedLion(beta2=0.99), problem, start(), 40).x, expected)


def test_fedlion_sends_integers():  # [26]
    trace = simulate(
        FedLion(), Quadratics.random(6, steps=5, lr=0.02), start(), 40, random_cohorts(6, 3, 40)
    )
    for uploads in trace.uploads:
        for upload in uploads.values():
            assert torch.equal(upload["R"], upload["R"].round()) and upload["R"].abs().max() <= 5
