"""Error feedback of clients compared with exact oracles (numbers in brackets), in float64.

The problems are quadratics; clients remember the error of their compressor.
"""

import pytest
import torch

from fedsmu_ray.algorithms.ef21 import EF21
from fedsmu_ray.algorithms.fed_ef import FedEF
from fedsmu_ray.algorithms.fedams import FedCAMS
from fedsmu_ray.wire.compressors import BlockSign
from tests.helpers.quadratics import (
    COMPRESSORS,
    F64,
    Quadratics,
    ragged_cohorts,
    random_cohorts,
    simulate,
    start,
)


class PlusSigns(FedEF):
    def uplink(self, setting):
        return {"z": BlockSign(setting.sizes, "plus")}


@pytest.mark.parametrize("method", [*(FedEF(**c) for c in COMPRESSORS), FedCAMS(), PlusSigns()])
def test_sent_and_remembered_add_up_to_the_displacements(method):  # [21], [23]
    problem, cohorts = Quadratics.random(6, steps=3, sizes=(3, 4)), ragged_cohorts(6, 3, 40)
    problem.a[:, :2] = 0.0  # displacements are exact zeros, whose signs the zero rule decides
    trace = simulate(method, problem, start(), 40, cohorts)
    displacements, sent = torch.zeros(6, 7, dtype=F64), torch.zeros(6, 7, dtype=F64)
    for t, cohort in enumerate(cohorts):
        displacements[cohort] += problem.local(cohort).train(trace.x[t]) - trace.x[t]
        for i, upload in trace.uploads[t].items():
            sent[i] += upload["z"]
    left = torch.stack([trace.states[-1][i]["e"] for i in range(6)])
    torch.testing.assert_close(sent + left, displacements, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method, name", [(FedEF(), "e"), (EF21(), "g"), (FedCAMS(), "e")])
def test_absent_clients_keep_their_memory(method, name):  # [23]
    cohorts = random_cohorts(6, 2, 20)
    trace = simulate(method, Quadratics.random(6, steps=3), start(), 20, cohorts)
    for t, cohort in enumerate(cohorts):
        for i in set(range(6)) - set(cohort):
            assert torch.equal(trace.states[t][i][name], trace.states[t + 1][i][name])
