"""SCAFFOLD compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import torch

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.scaffold import Scaffold
from tests.helpers.quadratics import (
    Quadratics,
    mean_over_clients,
    ragged_cohorts,
    same,
    simulate,
    start,
)


def test_scaffold_begins_as_fedavg():  # [18]
    problem, cohorts = Quadratics.random(6, steps=4), [[0, 2, 5]]
    same(
        simulate(Scaffold(), problem, start(), 1, cohorts).x,
        simulate(FedAvg(), problem, start(), 1, cohorts).x,
    )


def test_scaffold_of_one_client_is_fedavg():  # [18]
    problem = Quadratics.random(1, steps=4)
    same(simulate(Scaffold(), problem, start(), 40).x, simulate(FedAvg(), problem, start(), 40).x)


def test_server_variate_is_the_mean_of_the_clients():  # [18]
    problem = Quadratics.random(6, steps=4, sizes=(3, 4), weight_decay=0.01, clip_norm=1.0)
    trace = simulate(Scaffold(), problem, start(), 40, ragged_cohorts(6, 3, 40))
    same([server["c"] for server in trace.servers], mean_over_clients(trace, "c"), atol=1e-12)


def test_scaffold_variates_are_gradients():  # [19]
    problem = Quadratics.random(5, lr=0.1)
    problem.a[:] = problem.a[0]  # the same Hessian for all clients
    trace = simulate(Scaffold(), problem, start(), 1)
    everyone = list(range(5))
    for i in everyone:
        torch.testing.assert_close(
            trace.states[1][i]["c"], problem.gradient([i], start()[None])[0], rtol=1e-12, atol=1e-13
        )
    y = start(seed=9).expand(5, -1)
    c = torch.stack([trace.states[1][i]["c"] for i in everyone])
    corrected = problem.gradient(everyone, y) + trace.servers[1]["c"] - c
    torch.testing.assert_close(
        corrected, problem.gradient(everyone, y).mean(0).expand(5, -1), rtol=1e-12, atol=1e-13
    )


def test_scaffold_converges_to_the_optimum_where_fedavg_does_not():
    """On different quadratics and several local steps only SCAFFOLD reaches the optimum."""
    problem = Quadratics.random(4, steps=10, lr=0.1)
    best = (problem.a * problem.b).sum(0) / problem.a.sum(0)
    scaffold, fedavg = (
        simulate(method, problem, start(), 300).x[-1] for method in (Scaffold(), FedAvg())
    )
    assert (scaffold - best).norm() < 1e-8 < 1e-3 < (fedavg - best).norm()
