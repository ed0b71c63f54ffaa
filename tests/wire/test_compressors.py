"""Lossy codecs: documented sizes, scales, and one encoding per value."""

import numpy as np
import pytest
import torch

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import (
    BlockSign,
    HeavySign,
    PerClient,
    Quantizer,
    Support,
    TopK,
    block_sizes,
    error_feedback,
)
from tests.helpers.codecs import DIM, SIZES, FakeDraws, overwrite, reseal, support
from tests.helpers.quadratics import normal


def test_documented_bits():
    d, layers, log = DIM, len(SIZES), 9  # ceil(log2 350)
    k = sum(support(0.05).kept)
    assert k == 2 + 1 + 15 + 1

    def up(bits):
        return -(-bits // 8)

    assert TopK(support(0.05)).size(d) == 4 * k + up(k * log)
    assert TopK(support(0.05, "index32")).size(d) == 8 * k
    assert TopK(support(0.3)).size(d) == 4 * support(0.3).total + up(d)  # a mask is smaller
    assert HeavySign(support(0.05)).size(d) == 4 * layers + up(k) + up(k * log)
    assert BlockSign(SIZES).size(d) == 4 * layers + up(d) and BlockSign((d,)).size(d) == 4 + up(d)
    assert Quantizer(SIZES, 3).size(d) == up(3 * d)
    assert Quantizer(SIZES, 3, scaled=True).size(d) == up(3 * d) + 4 * layers


def test_blocks_are_the_tensors_or_the_model():
    assert block_sizes("tensor", SIZES) == SIZES
    assert block_sizes("model", SIZES) == (DIM,)


def test_compressors_by_name():
    kept = support(0.05)
    found = [
        error_feedback(name, SIZES, 0.05, "min") for name in ("topk", "sign", "heavy_sign", "none")
    ]
    assert found == [TopK(kept), BlockSign(SIZES), HeavySign(kept), Float32()]


def test_per_client_values_are_kept_in_order_instead_of_averaged():
    codec, inner = PerClient(BlockSign(SIZES)), BlockSign(SIZES)
    value = codec.compress(normal(3, DIM).float(), FakeDraws())
    rows = codec.encode(value)
    assert codec.code == inner.code and codec.size(DIM) == inner.size(DIM)
    assert np.array_equal(rows, inner.encode(value))
    assert torch.equal(codec.decode(rows, DIM), value)
    total = codec.accumulator(DIM, True)
    total.add(2, total.decode(rows[2:]))
    total.add(0, total.decode(rows[:2]))
    assert torch.equal(total.mean(), value)


@pytest.mark.parametrize(
    "codec", [BlockSign(SIZES), HeavySign(support(0.05)), Quantizer(SIZES, 4, scaled=True)]
)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_scales_must_be_finite_and_not_negative(codec, scale):
    rows = codec.encode(codec.compress(normal(1, DIM).float(), FakeDraws()))
    rows = overwrite(rows, slice(4, 8), np.array([scale], "<f4").view(np.uint8))
    with pytest.raises(MessageError):
        codec.decode(rows, DIM)


def test_a_zero_update_uploads_zero():
    """An update that is zero decodes to zero, whatever signs it was given."""
    zero = torch.zeros(1, DIM)
    for codec in (
        TopK(support(0.05)),
        HeavySign(support(0.05)),
        BlockSign(SIZES),
        Quantizer(SIZES, 4, scaled=True),
    ):
        assert not codec.decode(codec.encode(codec.compress(zero, FakeDraws())), DIM).any()


TWO_OF_FOUR = Support((4,), 0.5, "index")


@pytest.mark.parametrize(
    "codec, at, byte",
    [
        (
            TopK(Support((4,), 0.25, "index")),
            4,
            3,
        ),  # a kept zero in a place where no encoder puts it
        (HeavySign(TWO_OF_FOUR), 4, 1),  # a sign for a magnitude of zero
        (HeavySign(TWO_OF_FOUR), 3, 0x80),  # -0.0 for a magnitude
        (BlockSign((4,)), 4, 15),
        (BlockSign((4,)), 3, 0x80),
        (Quantizer((4,), 2, scaled=True), 4, 0xAA),  # nonzero levels with a scale of zero
        (Quantizer((4,), 3, scaled=True), 3, 0x3F),  # a scale that no entry reaches
    ],
    ids=repr,
)
def test_every_value_has_one_encoding(codec, at, byte):
    packed = message.encode({"u": codec}, {"u": torch.zeros(1, 4)}, 1, [0])
    packed[0, 32 + at] = byte
    with pytest.raises(MessageError):
        message.decode({"u": codec}, reseal(packed), 4, 1, [0])


@pytest.mark.parametrize(
    "codec",
    [Quantizer((9, 1, 20), 4, scaled=True), Quantizer((9, 1, 20), 8, False, scaled=True)],
    ids=repr,
)
@pytest.mark.parametrize("scale", 10.0 ** np.arange(-45, -28))
def test_tiny_values_are_what_the_server_decodes(codec, scale):
    v = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    value = codec.compress(v * float(scale), FakeDraws())
    assert torch.equal(codec.decode(codec.encode(value), 30), value)


def test_a_quantizer_needs_a_level_beside_zero():
    with pytest.raises(ValueError, match="1 bits leave no level beside 0; use zero_level=False"):
        Quantizer(SIZES, 1)
    assert Quantizer(SIZES, 1, zero_level=False).top == 1
