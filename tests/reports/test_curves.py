"""Means and bands over seeds."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from fedsmu_ray.reports.curves import DOWNLINK, UPLINK, band, curve, in_words
from tests.helpers.reports import history

ACCURACY = "test/accuracy"


def test_a_curve_is_the_mean_over_seeds_with_its_t_interval():
    found = curve([history(0.4), history(0.8), history(0.9)], ACCURACY)
    assert found.x.tolist() == [2, 4, 6, 8] and found.n == 3
    assert found.mean[-1] == pytest.approx(0.7)
    low, high = student.interval(0.95, 2, loc=0.7, scale=np.std([0.4, 0.8, 0.9], ddof=1) / 3**0.5)
    assert (found.low[-1], found.high[-1]) == (pytest.approx(low), pytest.approx(high))
    over = curve([history(0.4)], ACCURACY, (UPLINK, DOWNLINK))
    assert over.x.tolist() == [310_000 * r for r in (2, 4, 6, 8)] and over.low is None


def test_of_two_seeds_the_band_spans_both():
    low, high = band(np.array([[1.0, 5.0], [3.0, 4.0]]))
    assert low.tolist() == [1.0, 4.0] and high.tolist() == [3.0, 5.0]


def test_a_curve_ends_where_a_seed_has_no_finite_value():
    broken = history(**{ACCURACY: [0.1, math.nan, None, 0.4]})
    stopped = {key: column[:3] for key, column in history().items()}
    assert curve([history(), broken], ACCURACY).x.tolist() == [2, 8]
    assert curve([history(), stopped], ACCURACY).x.tolist() == [2, 4, 6]
    for missing in ([], [{}], [history(), {}], [history(**{ACCURACY: [None] * 4})]):
        assert curve(missing, ACCURACY).x.size == 0
    assert curve([{"round": [1], "x": [0.5]}], "x", (UPLINK,)).x.size == 0


@pytest.mark.parametrize(
    "seeds, words",
    [
        ([3], "Bands are 95 % intervals of the mean (t) over 3 seeds."),
        ([2], "Bands span both seeds."),
        ([1], "One seed each."),
        ([1, 5], "Bands are 95 % intervals of the mean (t) over 5 seeds; settings with one seed"),
        ([2, 3, 4], "over 3 to 4 seeds; bands of settings with two seeds span both."),
        ([], ""),
    ],
)
def test_a_caption_says_what_bands_are(seeds, words):
    assert words in in_words(seeds)
