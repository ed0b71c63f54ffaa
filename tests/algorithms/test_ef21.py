"""EF21 compared with exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch

from fedsmu_ray.algorithms.ef21 import EF21
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.wire.compressors import TopK
from fedsmu_ray.wire.support import Support
from tests.helpers.quadratics import (
    COMPRESSORS,
    F64,
    Quadratics,
    ragged_cohorts,
    same,
    simulate,
    start,
)


def test_ef21_without_compression_is_fedavg():  # [24]
    problem = Quadratics.random(6, steps=3)
    fedavg = simulate(FedAvg(), problem, start(), 40).x
    same(simulate(EF21(compressor="none"), problem, start(), 40).x, fedavg)
    dense, full = (
        simulate(EF21(**options), problem, start(), 40).x
        for options in ({"compressor": "none"}, {"k_ratio": 1.0})
    )
    assert all(torch.equal(a, b) for a, b in zip(dense, full))


def test_ef21_under_partial_participation_is_memory_averaging():  # [24]
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    x, latest, expected = start(), torch.zeros(6, 7, dtype=F64), [start()]
    for cohort in cohorts:
        latest[cohort] = problem.local(cohort).train(x) - x
        x = x + 0.5 * latest.mean(0)
        expected.append(x)
    same(simulate(EF21(compressor="none", lr=0.5), problem, start(), 40, cohorts).x, expected)


@pytest.mark.parametrize("options", COMPRESSORS)
def test_ef21_server_holds_the_mean_over_all_clients(options):  # [24]
    problem = Quadratics.random(6, steps=3, sizes=(3, 4))
    trace = simulate(
        EF21(**{"group": "model", **options}), problem, start(), 40, ragged_cohorts(6, 3, 40)
    )
    for server, states in zip(trace.servers, trace.states):
        mean = torch.stack([s["g"] for s in states.values()]).mean(0)
        torch.testing.assert_close(server["g"], mean, rtol=1e-12, atol=1e-12)


def test_ef21_starts_from_the_compressed_first_displacement():
    """Starting with g_i = 0 equals the papers' initial value g_i = C(first displacement)."""
    problem = Quadratics.random(6, steps=3)
    trace = simulate(EF21(k_ratio=0.3), problem, start(), 2, [[0, 1, 2], [2, 3, 4]])
    topk = TopK(Support((7,), 0.3, "min"))
    for t, client in ((0, 0), (0, 2), (1, 4)):
        local = problem.local([client])
        first = topk.compress(local.train(trace.x[t]) - trace.x[t], local)
        assert torch.equal(trace.states[t + 1][client]["g"], first[0])


@pytest.mark.parametrize("options", COMPRESSORS)
def test_ef21_over_participants_takes_their_mean(options):
    problem, cohorts = Quadratics.random(6, steps=3, sizes=(3, 4)), ragged_cohorts(6, 3, 40)
    trace = simulate(
        EF21(**{"group": "model", **options}, server_average="participants", lr=0.5),
        problem,
        start(),
        40,
        cohorts,
    )
    for t, cohort in enumerate(cohorts):
        g = torch.stack([trace.states[t + 1][i]["g"] for i in cohort]).mean(0)
        torch.testing.assert_close(trace.x[t + 1], trace.x[t] + 0.5 * g, rtol=1e-12, atol=1e-12)
        kept = torch.stack([trace.states[t + 1][i]["g"] for i in range(6)])
        torch.testing.assert_close(trace.servers[t + 1]["g_i"], kept, rtol=0, atol=0)


def test_ef21_over_participants_equals_known_methods_in_special_cases():
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    same(
        simulate(EF21(server_average="participants"), problem, start(), 40).x,
        simulate(EF21(), problem, start(), 40).x,
    )
    dense = simulate(
        EF21(compressor="none", server_average="participants"), problem, start(), 40, cohorts
    ).x
    same(dense, simulate(FedAvg(), problem, start(), 40, cohorts).x)
