"""FedDyn compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import torch

from fedsmu_ray.algorithms.feddyn import FedDyn
from tests.helpers.quadratics import (
    Quadratics,
    mean_over_clients,
    ragged_cohorts,
    same,
    simulate,
    start,
)


def test_feddyn_reaches_the_optimum_and_its_variates_are_gradients():
    """At the fixed point g_i is client i's gradient at the optimum, and these sum to zero."""
    problem = Quadratics.random(4, steps=60, lr=0.4)
    best = (problem.a * problem.b).sum(0) / problem.a.sum(0)
    trace = simulate(FedDyn(alpha=0.5), problem, start(), 120)
    torch.testing.assert_close(trace.x[-1], best, rtol=0, atol=1e-9)
    for i, state in trace.states[-1].items():
        torch.testing.assert_close(
            state["g"], problem.gradient([i], best[None])[0], rtol=0, atol=1e-8
        )


def test_feddyn_server_state_is_minus_the_mean_of_the_clients():
    problem = Quadratics.random(6, steps=4)
    trace = simulate(FedDyn(alpha=0.5), problem, start(), 40, ragged_cohorts(6, 3, 40))
    same([server["h"] for server in trace.servers], mean_over_clients(trace, "g"), atol=1e-12)
