"""FedAvg, its relatives and control variates against their exact oracles (numbers in brackets), in float64."""

import pytest
import torch
from helpers.quadratics import (
    Quadratics,
    normal,
    ragged_cohorts,
    random_cohorts,
    same,
    simulate,
    start,
)

from fedsmu_ray.algorithms.registry import FedAvg, FedAvgM, FedDyn, FedProx, Scaffold, Scallion
from fedsmu_ray.wire.compressors import Quantizer


def means(trace, name):
    return [torch.stack([s[name] for s in states.values()]).mean(0) for states in trace.states]


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


def test_scaffold_begins_as_fedavg():  # [18]
    problem, cohorts = Quadratics.random(6, steps=4), [[0, 2, 5]]
    same(
        simulate(Scaffold(), problem, start(), 1, cohorts).x,
        simulate(FedAvg(), problem, start(), 1, cohorts).x,
    )


def test_scaffold_of_one_client_is_fedavg():  # [18]
    problem = Quadratics.random(1, steps=4)
    same(simulate(Scaffold(), problem, start(), 40).x, simulate(FedAvg(), problem, start(), 40).x)


@pytest.mark.parametrize(
    "method", [Scaffold(), Scallion(), Scallion(alpha=0.3, bits=2), Scallion(bits=32, alpha=0.5)]
)
def test_server_variate_is_the_mean_of_the_clients(method):  # [18], [20]
    problem = Quadratics.random(6, steps=4, sizes=(3, 4), weight_decay=0.01, clip_norm=1.0)
    trace = simulate(method, problem, start(), 40, ragged_cohorts(6, 3, 40))
    same([server["c"] for server in trace.servers], means(trace, "c"), atol=1e-12)


def test_scaffold_variates_are_gradients():  # [19]
    problem = Quadratics.random(5, lr=0.1)
    problem.a[:] = problem.a[0]  # one Hessian
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


def test_scaffold_has_the_right_fixed_point_where_fedavg_drifts():
    """With local steps on unlike quadratics FedAvg stops beside the optimum and SCAFFOLD at it."""
    problem = Quadratics.random(4, steps=10, lr=0.1)
    best = (problem.a * problem.b).sum(0) / problem.a.sum(0)
    scaffold, fedavg = (
        simulate(method, problem, start(), 300).x[-1] for method in (Scaffold(), FedAvg())
    )
    assert (scaffold - best).norm() < 1e-8 < 1e-3 < (fedavg - best).norm()


def test_scallion_without_compression_is_scaffold():  # [20]
    problem, cohorts = Quadratics.random(6, steps=4), random_cohorts(6, 3, 40)
    one, two = (
        simulate(method, problem, start(), 40, cohorts)
        for method in (Scallion(bits=32), Scaffold())
    )
    same(one.x, two.x, rtol=1e-10)


@pytest.mark.parametrize("bits", [2, 4])
def test_dithering_is_unbiased_and_on_its_grid(bits):  # [20]
    v, draws = normal(1, 50), 4000
    local = Quadratics.random(1).local([0])
    code = Quantizer((20, 30), bits, stochastic=True, scaled=True)
    z = torch.cat([code.compress(v, local) for _ in range(draws)])
    q = 2 ** (bits - 1) - 1
    r = torch.cat([g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split((20, 30), -1)], -1)
    assert ((z.mean(0) - v).abs() <= 5 * z.std(0) / draws**0.5 + 1e-12).all()
    level = z / r * q
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-9)
    assert ((z - v).abs() < r / q).all() and (level.abs() <= q + 1e-9).all()


def test_fedprox_and_fedavgm_without_their_term_are_fedavg():
    problem, cohorts = Quadratics.random(6, steps=4), random_cohorts(6, 3, 40)
    fedavg = simulate(FedAvg(), problem, start(), 40, cohorts).x
    same(simulate(FedProx(mu=0.0), problem, start(), 40, cohorts).x, fedavg)
    same(simulate(FedAvgM(beta=0.0), problem, start(), 40, cohorts).x, fedavg)


def test_fedprox_solves_the_proximal_problem():
    """Many local steps reach argmin F_i(y) + mu / 2 ||y - x||^2 = (a b + mu x) / (a + mu)."""
    problem, x = Quadratics.random(3, steps=400, lr=0.2), start()
    expected = (problem.a * problem.b + 0.5 * x) / (problem.a + 0.5)
    same(simulate(FedProx(mu=0.5), problem, x, 1).x[1:], [expected.mean(0)])


def test_fedavgm_is_heavy_ball():
    problem, x = Quadratics.random(4, lr=0.1), start()
    xs = [x, x]  # x_0 = x_1
    for _ in range(20):
        gradient = problem.gradient(list(range(4)), xs[-1].expand(4, -1)).mean(0)
        xs.append(xs[-1] - 0.1 * gradient + 0.8 * (xs[-1] - xs[-2]))
    same(simulate(FedAvgM(beta=0.8), problem, x, 20).x, xs[1:])


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
    same([server["h"] for server in trace.servers], means(trace, "g"), atol=1e-12)
