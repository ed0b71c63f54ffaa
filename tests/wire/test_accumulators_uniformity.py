"""Magnitude uniformity compared with exact oracles (numbers in brackets)."""

import pytest
import torch

from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from tests.helpers.quadratics import normal, signs


def uniformity(codec, value):
    total = codec.accumulator(value.shape[-1], True)
    total.add(0, total.decode(codec.encode(value.float())))
    return total.uniformity()


def test_uniformity_of_equal_magnitudes_is_one():  # [29]
    one = signs(10, 300)
    assert [uniformity(codec, one) for codec in (Sign(), Trit(), Float32())] == [1.0] * 3
    assert uniformity(Float32(), one * normal(300).abs()) == pytest.approx(1.0)


def test_uniformity_keeps_its_bounds_and_ignores_a_common_factor():  # [29]
    value = normal(10, 300)
    mixed = uniformity(Float32(), value)
    assert 1 / 10 < mixed < 1 and uniformity(Float32(), 64 * value) == pytest.approx(mixed)
    for factor in (1e30, 1e-30):  # whose squares float32 does not hold
        assert uniformity(Float32(), factor * value) == pytest.approx(mixed)
    alone = torch.zeros(10, 300)
    alone[3, :200] = normal(200).float()  # the other 100 coordinates are left out
    assert uniformity(Float32(), alone) == pytest.approx(1 / 10)
