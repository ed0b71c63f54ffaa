"""Statistics of a split."""

import numpy as np

from fedsmu_ray.datasets.statistics import covering, statistics

COUNTS = np.array([[80, 10, 10], [40, 40, 20], [34, 33, 33]])


def test_classes_that_cover_a_client():
    assert covering(COUNTS).tolist() == [1, 2, 3]


def test_a_split_in_a_few_numbers():
    assert statistics(np.vstack([COUNTS, [0, 5, 0]])) == {
        "clients": 4,
        "samples": 305,
        "size_min": 5,
        "size_median": 100.0,
        "size_max": 100,
        "classes_median": 3.0,
        "classes_covering_80_min": 1,
        "classes_covering_80_median": 1.5,
        "classes_covering_80_max": 3,
    }
