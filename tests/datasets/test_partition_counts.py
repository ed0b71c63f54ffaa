"""Sizes of splits against their exact oracle (number in brackets)."""

import numpy as np
import pytest

from fedsmu_ray.config.schema import PartitionConfig
from fedsmu_ray.datasets.partition import partition


@pytest.mark.parametrize("kind", ["dirichlet", "iid"])
def test_a_split_without_remainder_uses_every_sample(kind):  # [31]
    y = np.random.default_rng(0).integers(10, size=5000)
    counts = partition(PartitionConfig(kind, 0.25), y, 10, 50, 0).counts(y, 10)
    assert (counts.sum(0) == np.bincount(y, minlength=10)).all() and (counts.sum(1) == 100).all()
