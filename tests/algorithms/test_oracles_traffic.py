"""Magnitude uniformity, bytes and splits against their exact oracles (numbers in brackets)."""

import numpy as np
import pytest
import torch
from helpers.quadratics import normal, signs

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.reference import lenet_setting
from fedsmu_ray.config.schema import PartitionConfig
from fedsmu_ray.datasets.partition import partition
from fedsmu_ray.wire.codecs import Float32, Sign, Trit


def uniformity(codec, value):
    total = codec.accumulator(value.shape[-1], True)
    total.add(total.decode(codec.encode(value.float())))
    return total.uniformity()


def test_uniformity_of_equal_magnitudes_is_one():  # [29]
    one = signs(10, 300)
    assert [uniformity(codec, one) for codec in (Sign(), Trit(), Float32())] == [1.0] * 3
    assert uniformity(Float32(), one * normal(300).abs()) == pytest.approx(1.0)


def test_uniformity_keeps_its_bounds_and_ignores_a_common_factor():  # [29]
    value = normal(10, 300)
    mixed = uniformity(Float32(), value)
    assert 1 / 10 < mixed < 1 and uniformity(Float32(), 64 * value) == pytest.approx(mixed)
    alone = torch.zeros(10, 300)
    alone[3, :200] = normal(200).float()  # the other 100 coordinates are left out
    assert uniformity(Float32(), alone) == pytest.approx(1 / 10)


def test_a_client_of_fedsmu_costs_4_2_bits_at_a_tenth_of_the_downlink():  # [30]
    setting = lenet_setting()
    method = METHODS["fedsmu"]()
    up, down = (
        8 * sum(c.size(setting.dim) for c in sent(setting).values())
        for sent in (method.uplink, method.downlink)
    )
    assert (up + 0.1 * down) / setting.dim == pytest.approx(4.2, abs=1e-5)


@pytest.mark.parametrize("kind", ["dirichlet", "iid"])
def test_a_split_without_remainder_uses_every_sample(kind):  # [31]
    y = np.random.default_rng(0).integers(10, size=5000)
    counts = partition(PartitionConfig(kind, 0.25), y, 10, 50, 0).counts(y, 10)
    assert (counts.sum(0) == np.bincount(y, minlength=10)).all() and (counts.sum(1) == 100).all()
