"""Sampling of cohorts and simulated drop-out: uniform, independent, a function of the seed."""

import numpy as np
import torch

from fedsmu_ray.federation.cohort import by_size, drop_out, sample_cohort
from fedsmu_ray.numerics import streams


def test_cohorts_are_uniform_and_independent_of_the_method():
    assert sample_cohort(3, 5, 30, 7) == sample_cohort(3, 5, 30, 7) != sample_cohort(3, 6, 30, 7)
    counts = np.bincount([c for t in range(3000) for c in sample_cohort(0, t, 30, 7)], minlength=30)
    expected = 3000 * 7 / 30
    assert abs(counts - expected).max() < 5 * (expected * (1 - 7 / 30)) ** 0.5


def test_drop_outs_are_independent_and_have_the_configured_rate():
    cohort = list(range(200))
    stayed = [set(drop_out(7, t, cohort, 0.25)) for t in range(1, 101)]
    count = sum(map(len, stayed))
    assert abs(count - 15000) < 5 * (20000 * 0.25 * 0.75) ** 0.5
    assert len(set(map(frozenset, stayed))) == 100
    alone = [c for c in cohort if drop_out(7, 3, [c], 0.25)]
    assert set(alone) == stayed[2]  # independent of the rest of the cohort
    assert streams.keys(7, "dropout", 1, torch.tensor(0)) != streams.keys(
        7, "batches", 1, torch.tensor(0)
    )


def test_clients_are_ordered_by_size_and_equal_ones_stay_as_they_are():
    sizes = torch.tensor([5, 9, 5, 1, 9])
    assert by_size([0, 1, 2, 3, 4], sizes) == [1, 4, 0, 2, 3]
    assert by_size([4, 2, 0], sizes) == [4, 2, 0] and by_size([], sizes) == []
