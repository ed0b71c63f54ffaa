"""Sampling of cohorts and simulated drop-out: uniform, independent, a function of the seed."""

import numpy as np
import pytest
import torch

from fedsmu_ray.federation.cohort import SAMPLINGS, descending, drop_out, sample_cohort
from fedsmu_ray.numerics import streams


def test_cohorts_are_uniform_and_independent_of_the_method():
    assert sample_cohort(3, 5, 30, 7) == sample_cohort(3, 5, 30, 7) != sample_cohort(3, 6, 30, 7)
    counts = np.bincount([c for t in range(3000) for c in sample_cohort(0, t, 30, 7)], minlength=30)
    expected = 3000 * 7 / 30
    assert abs(counts - expected).max() < 5 * (expected * (1 - 7 / 30)) ** 0.5


SIZES = torch.tensor([10, 20, 30, 40, 100, 300])


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_sampling_gives_distinct_clients_from_the_seed_in_ascending_order(name):
    for t in range(1, 30):
        found = SAMPLINGS[name](1, t, SIZES, 4)
        assert len(set(found)) == 4 and found == sorted(found) and set(found) <= set(range(6))
        assert found == SAMPLINGS[name](1, t, SIZES, 4)
    assert SAMPLINGS[name](1, 3, SIZES, 6) == list(range(6))
    others = [SAMPLINGS[name](seed, 1, torch.ones(40, dtype=torch.int64), 20) for seed in (1, 2)]
    assert others[0] != others[1]


def test_weighted_sampling_draws_clients_by_their_samples():
    drawn = [SAMPLINGS["weighted"](0, t, SIZES, 1)[0] for t in range(1, 5001)]
    counts, shares = np.bincount(drawn, minlength=6), SIZES.numpy() / 500
    assert (abs(counts - 5000 * shares) < 5 * (5000 * shares * (1 - shares)) ** 0.5).all()


def test_fixed_sampling_has_the_same_clients_in_every_round():
    assert len({tuple(SAMPLINGS["fixed"](3, t, SIZES, 2)) for t in range(1, 50)}) == 1


def test_cyclic_sampling_has_all_clients_equally_often_in_a_drawn_order():
    drawn = [SAMPLINGS["cyclic"](3, t, SIZES, 4) for t in range(1, 4)]  # 12 = twice all six
    assert np.bincount(sum(drawn, [])).tolist() == [2] * 6
    assert SAMPLINGS["cyclic"](3, 4, SIZES, 4) == drawn[0]


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


def test_clients_are_ordered_descending_and_equal_ones_stay_as_they_are():
    sizes = torch.tensor([5, 9, 5, 1, 9])
    assert descending([0, 1, 2, 3, 4], sizes) == [1, 4, 0, 2, 3]
    assert descending([4, 2, 0], sizes) == [4, 2, 0] and descending([], sizes) == []
