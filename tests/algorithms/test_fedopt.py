"""FedAdam and FedYogi compared with the optimizers they are named after, in float64."""

import torch

from fedsmu_ray.algorithms.fedopt import FedAdam, FedYogi
from tests.helpers.quadratics import F64, Quadratics, same, simulate, start


def test_fedadam_and_fedyogi_are_their_optimizers():
    """With one client and one local step of rate 1 the pseudo-gradient is the gradient."""
    problem = Quadratics.random(1, lr=1.0)
    for yogi, method in ((False, FedAdam(lr=0.1)), (True, FedYogi(lr=0.1))):
        x, m, v, expected = (
            start(),
            torch.zeros(7, dtype=F64),
            torch.full((7,), 1e-6, dtype=F64),
            [start()],
        )
        for _ in range(30):
            g = problem.gradient([0], x[None])[0]
            m = 0.9 * m + 0.1 * g
            v = v - 0.01 * g**2 * torch.sign(v - g**2) if yogi else 0.99 * v + 0.01 * g**2
            x = x - 0.1 * m / (v.sqrt() + 1e-3)
            expected.append(x)
        same(simulate(method, problem, start(), 30).x, expected)
