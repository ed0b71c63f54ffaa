"""Data sets from arrays: arrays that do not fit together are reported by name."""

import numpy as np
import pytest

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import small_arrays

NO_MATCH = "own.npz: train_x .24, 3, 8, 8. and train_y .23.* must hold the same number"
SHAPES = r"training samples are \[3, 8, 8\] .* test samples \[3, 9, 9\]"
CLIENTS = "clients .5. must hold one whole number for every training sample"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_y": np.arange(23) % 4}, NO_MATCH),
        ({"test_y": np.full(8, 4)}, r"test_y\[0\] = 4: labels must be in 0..3"),
        ({"train_y": np.linspace(0, 1, 24)}, "train_y is float64; it must hold whole numbers"),
        ({"test_x": np.zeros((8, 3, 9, 9), np.uint8)}, SHAPES),
        ({"train_x": np.full((24, 5), np.nan), "test_x": np.zeros((8, 5))}, "NaN or infinite"),
        ({"train_x": np.array(["a"] * 24)}, "samples .24. of type <U1"),
        ({"clients": np.arange(5)}, CLIENTS),
        ({"colour": np.zeros(1)}, "colour unknown"),
        ({"mean": [0.5], "std": [1.0]}, "need a number for each of the 3 channels"),
    ],
)
def test_arrays_that_do_not_fit(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_arrays("own", {**small_arrays(), **change}, "data.root: own.npz")
    assert all(p.startswith("data.root: own.npz") for p in caught.value.problems)


def test_missing_arrays_are_listed():
    arrays = small_arrays()
    del arrays["train_y"], arrays["test_x"]
    with pytest.raises(ConfigError, match="own: train_y, test_x missing .*are required"):
        from_arrays("own", arrays, "own")
