"""Error feedback against its exact oracles (numbers in brackets), in float64 on quadratics."""

import pytest
import torch
from helpers.quadratics import (
    F64,
    Quadratics,
    normal,
    ragged_cohorts,
    random_cohorts,
    same,
    simulate,
    start,
)

from fedsmu_ray.algorithms.registry import EF21, FedAvg, FedCAMS, FedEF
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Support, TopK

COMPRESSORS = [
    {"compressor": "topk", "k_ratio": 0.3},
    {"compressor": "sign"},
    {"compressor": "heavy_sign", "k_ratio": 0.4},
    {"compressor": "topk", "k_ratio": 0.3, "group": "tensor"},
    {"compressor": "sign", "group": "model"},
]


def test_fed_ef_without_compression_is_fedavg():  # [21]
    problem, cohorts = Quadratics.random(6, steps=3), random_cohorts(6, 3, 40)
    trace = simulate(FedEF(compressor="none"), problem, start(), 40, cohorts)
    same(trace.x, simulate(FedAvg(), problem, start(), 40, cohorts).x)
    assert all(state["e"].abs().max() < 1e-14 for state in trace.states[-1].values())


class PlusSigns(FedEF):
    def uplink(self, setting):
        return {"z": BlockSign(setting.sizes, "plus")}


@pytest.mark.parametrize("method", [*(FedEF(**c) for c in COMPRESSORS), FedCAMS(), PlusSigns()])
def test_sent_and_remembered_add_up_to_the_displacements(method):  # [21], [23]
    problem, cohorts = Quadratics.random(6, steps=3, sizes=(3, 4)), ragged_cohorts(6, 3, 40)
    problem.a[:, :2] = 0.0  # whose displacements are exact zeros, for a coin or +1 to decide
    trace = simulate(method, problem, start(), 40, cohorts)
    displacements, sent = torch.zeros(6, 7, dtype=F64), torch.zeros(6, 7, dtype=F64)
    for t, cohort in enumerate(cohorts):
        displacements[cohort] += problem.local(cohort).sgd(trace.x[t]) - trace.x[t]
        for i, upload in trace.uploads[t].items():
            sent[i] += upload["z"]
    left = torch.stack([trace.states[-1][i]["e"] for i in range(6)])
    torch.testing.assert_close(sent + left, displacements, rtol=1e-12, atol=1e-12)


def error(z, v):
    return (z - v).square().sum(-1)


def test_errors_of_the_compressors():  # [22]
    v, local = normal(5, 40), Quadratics.random(5).local(range(5))
    norm = v.square().sum(-1)
    sizes = (15, 25)
    z = BlockSign(sizes).compress(v, local)
    torch.testing.assert_close(
        error(z, v), norm - sum(g.abs().sum(-1) ** 2 / g.shape[-1] for g in v.split(sizes, -1))
    )
    support = Support((40,), 0.25, "min")
    kept = torch.where(support.of(v), v, 0)
    torch.testing.assert_close(
        error(HeavySign(support).compress(v, local), v), norm - kept.abs().sum(-1) ** 2 / 10
    )
    assert (error(TopK(support).compress(v, local), v) <= (1 - 10 / 40) * norm).all()
    dense = HeavySign(Support((40,), 1.0, "min")).compress(v, local)
    torch.testing.assert_close(dense, BlockSign((40,)).compress(v, local))


def test_top_k_keeps_exactly_k_and_the_lowest_index_of_equals():  # [22]
    local = Quadratics.random(1).local([0])
    v = torch.tensor([[1.0, -2.0, 2.0, 2.0, 0.5, -2.0, 3.0, 0.0]])
    z = TopK(Support((8,), 3 / 8, "index")).compress(v, local)
    assert torch.equal(z, torch.tensor([[0.0, -2.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0]]))
    assert Support((8,), 3 / 8, "index").of(torch.zeros(1, 8)).sum() == 3
    grouped = Support((4, 4), 0.25, "index").of(v)
    assert grouped.nonzero()[:, 1].tolist() == [1, 6]


@pytest.mark.parametrize("method, name", [(FedEF(), "e"), (EF21(), "g"), (FedCAMS(), "e")])
def test_absent_clients_keep_their_memory(method, name):  # [23]
    cohorts = random_cohorts(6, 2, 20)
    trace = simulate(method, Quadratics.random(6, steps=3), start(), 20, cohorts)
    for t, cohort in enumerate(cohorts):
        for i in set(range(6)) - set(cohort):
            assert torch.equal(trace.states[t][i][name], trace.states[t + 1][i][name])


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
        latest[cohort] = problem.local(cohort).sgd(x) - x
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
    """g_i = 0 and a first z_i that counts at once are the papers' choice g_i = C(first displacement)."""
    problem = Quadratics.random(6, steps=3)
    trace = simulate(EF21(k_ratio=0.3), problem, start(), 2, [[0, 1, 2], [2, 3, 4]])
    topk = TopK(Support((7,), 0.3, "min"))
    for t, client in ((0, 0), (0, 2), (1, 4)):
        local = problem.local([client])
        first = topk.compress(local.sgd(trace.x[t]) - trace.x[t], local)
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


def test_ef21_over_participants_between_known_methods():
    problem, cohorts = Quadratics.random(6, steps=3), ragged_cohorts(6, 3, 40)
    same(
        simulate(EF21(server_average="participants"), problem, start(), 40).x,
        simulate(EF21(), problem, start(), 40).x,
    )
    dense = simulate(
        EF21(compressor="none", server_average="participants"), problem, start(), 40, cohorts
    ).x
    same(dense, simulate(FedAvg(), problem, start(), 40, cohorts).x)
