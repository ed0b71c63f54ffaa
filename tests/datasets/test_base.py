"""Options of data sets: types, bounds, and the list of problems."""

import pytest

from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load

KEYS = "shape, classes, train, test, separation, targets, seed"
UNKNOWN = f"data.options.samples: unknown key; data.dataset = synthetic has the options {KEYS}"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 10}, UNKNOWN),
        ({"train": 0}, "data.options.train = 0: it must be greater than or equal to 1"),
        ({"shape": [3, 0, 8]}, r"data.options.shape\[1\] = 0: it must be greater"),
        ({"shape": 64}, "data.options.shape = 64: it must be a valid list"),
        ({"separation": "far"}, "data.options.separation = 'far': it must be a valid number"),
        ({"train": True}, "data.options.train = True: it must be a valid integer"),
        ({"separation": float("inf")}, "data.options.separation = inf: it must be a finite number"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        load("synthetic", **options)


def test_all_problems_are_listed():
    with pytest.raises(ConfigError) as caught:
        load("synthetic", train=0, samples=10, shape=[0, 0])
    assert len(caught.value.problems) == 4


def test_lists_become_tuples():
    assert Synthetic.from_options("synthetic", {"shape": [3, 4]}) == Synthetic(shape=(3, 4))
