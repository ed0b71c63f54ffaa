"""Codecs and compressors: what is encoded is what is decoded, in exactly the documented bytes; nonsense is refused."""

import numpy as np
import pytest
import torch
from helpers.quadratics import normal

from fedsmu_ray.errors import MessageError
from fedsmu_ray.numerics import streams
from fedsmu_ray.wire.codecs import Float32, Integers, Sign, Trit, pack, unpack
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, Support, TopK

SIZES = (40, 1, 300, 9)
DIM = sum(SIZES)


class Draws:
    def sign(self, v, zero_rule):
        u = torch.sign(v) + (v == 0) * (zero_rule != "zero")
        return u.to(torch.int8)

    def uniform(self, v):
        word = streams.words(
            streams.keys(1, "test", 0, torch.arange(len(v)))[:, None], torch.arange(v.shape[-1])
        )
        return ((word >> 40) & (2**24 - 1)).to(v.dtype) / 2**24


def support(ratio, coding="min", sizes=SIZES):
    return Support(sizes, ratio, coding)


CODECS = [
    Float32(),
    Sign(),
    Trit(),
    TopK(support(0.05)),
    TopK(support(0.3)),
    TopK(support(0.05, "index32")),
    TopK(support(0.05, "mask")),
    TopK(support(1.0)),
    TopK(support(0.05, sizes=(DIM,))),
    HeavySign(support(0.05)),
    HeavySign(support(0.5)),
    HeavySign(support(0.05, sizes=(DIM,))),
    BlockSign(SIZES),
    BlockSign((DIM,)),
    *(
        Quantizer(SIZES, b, zero, scaled=scaled)
        for b in (2, 3, 8)
        for zero in (True, False)
        for scaled in (True, False)
    ),
    Quantizer(SIZES, 4, stochastic=True, scaled=True),
    Quantizer(SIZES, 12, stochastic=True, scaled=True),
    Quantizer(SIZES, 1, False),
]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 0.0])
def test_decoded_is_what_was_encoded(codec, scale):
    v = (scale * normal(3, DIM)).float()
    v[1, ::7] = 0.0
    value = codec.compress(v, Draws())
    rows = codec.encode(value)
    assert rows.shape == (3, codec.size(DIM)) and rows.dtype == np.uint8
    decoded = codec.decode(rows, DIM)
    assert torch.equal(decoded, value)
    assert torch.equal(codec.compress(v, Draws()), value)
    total = codec.accumulator(DIM, True)
    total.add(total.decode(rows[:2]))
    total.add(total.decode(rows[2:]))
    torch.testing.assert_close(total.mean(), value.double().mean(0).float(), rtol=1e-5, atol=1e-37)
    assert 1 / 3 - 1e-6 <= total.uniformity() <= 1 + 1e-6


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_each_client_is_encoded_alone(codec):
    value = codec.compress(normal(3, DIM).float(), Draws())
    assert np.array_equal(codec.encode(value)[1], codec.encode(value[1:2])[0])


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_any_bytes_are_refused_or_finite(codec):
    noise = np.random.default_rng(0)
    for trial in range(40):
        rows = noise.integers(0, 256, (1, codec.size(DIM)), np.uint8)
        if trial % 2:  # a valid payload with one byte changed gets further in
            rows = codec.encode(codec.compress(normal(1, DIM, seed=trial).float(), Draws())).copy()
            rows[0, noise.integers(rows.shape[1])] ^= noise.integers(1, 256, dtype=np.uint8)
        try:
            decoded = codec.decode(rows, DIM)
        except MessageError:
            continue
        assert decoded.shape == (1, DIM) and torch.isfinite(decoded).all()


def test_documented_bits():
    d, layers, log = DIM, len(SIZES), 9  # ceil(log2 350)
    k = sum(support(0.05).kept)
    assert k == 2 + 1 + 15 + 1

    def up(bits):
        return -(-bits // 8)

    assert Float32().size(d) == 4 * d and Sign().size(d) == up(d) and Trit().size(d) == -(-d // 5)
    assert TopK(support(0.05)).size(d) == 4 * k + up(k * log)
    assert TopK(support(0.05, "index32")).size(d) == 8 * k
    assert TopK(support(0.3)).size(d) == 4 * support(0.3).total + up(d)  # a mask is smaller
    assert HeavySign(support(0.05)).size(d) == 4 * layers + up(k) + up(k * log)
    assert BlockSign(SIZES).size(d) == 4 * layers + up(d) and BlockSign((d,)).size(d) == 4 + up(d)
    assert (
        Quantizer(SIZES, 3).size(d) == up(3 * d)
        and Quantizer(SIZES, 3, scaled=True).size(d) == up(3 * d) + 4 * layers
    )
    assert Integers(50).size(d) == up(7 * d) and Integers(500).size(d) == up(
        10 * d
    )  # 101 and 1001 values
    assert Integers(10, 2).size(d) == up(4 * d) and Integers(3, 2).size(d) == up(
        2 * d
    )  # 11 and 4 votes


@pytest.mark.parametrize("dim, nbytes", [(797_962, 99_746), (815_332, 101_917), (133_520, 16_690)])
def test_signs_of_the_papers_models(dim, nbytes):
    assert Sign().size(dim) == nbytes


@pytest.mark.parametrize(
    "codec", [Integers(5), Integers(500), Integers(10, 2), Integers(3, 2), Integers(1, 2)]
)
def test_integers(codec):
    values = torch.arange(-codec.bound, codec.bound + 1, codec.step).float()
    value = torch.stack([values, values.flip(0)])
    rows = codec.encode(value)
    assert rows.shape[1] == codec.size(len(values)) and torch.equal(
        codec.decode(rows, len(values)), value
    )
    if codec.values != 2**codec.bits:
        with pytest.raises(MessageError, match="integer"):
            codec.decode(np.full((1, 2 * codec.bits), 255, np.uint8), 16)
    with pytest.raises(AssertionError):
        codec.encode(torch.full((1, 4), codec.bound + codec.step))


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 9, 17, 32])
def test_packing(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 21), np.uint32)
    rows = pack(codes, bits)
    assert rows.shape == (3, -(-21 * bits // 8)) and np.array_equal(unpack(rows, 21, bits), codes)
    if 21 * bits % 8:
        rows[1, -1] |= 0x80
        with pytest.raises(MessageError, match="padding"):
            unpack(rows, 21, bits)


def broken(rows, at, value):
    rows = rows.copy()
    rows[:, at] = value
    return rows


def test_top_k_refuses_impossible_supports():
    code = TopK(support(0.05, "index32"))
    rows = code.encode(code.compress(normal(1, DIM).float(), Draws()))
    cut = 4 * code.support.total
    index = rows[:, cut:].copy().view("<u4")
    for wrong, what in (
        (index[:, ::-1], "ascending"),
        (np.where(np.arange(19) == 18, DIM, index), "below"),
        (np.arange(19)[None], "groups"),
    ):
        bad = np.concatenate([rows[:, :cut], np.ascontiguousarray(wrong, "<u4").view(np.uint8)], -1)
        with pytest.raises(MessageError, match=what):
            code.decode(bad, DIM)
    mask = TopK(support(0.05, "mask"))
    rows = mask.encode(mask.compress(normal(1, DIM).float(), Draws()))
    with pytest.raises(MessageError, match="mask"):
        mask.decode(broken(rows, slice(cut, None), 0), DIM)


@pytest.mark.parametrize(
    "codec", [BlockSign(SIZES), HeavySign(support(0.05)), Quantizer(SIZES, 4, scaled=True)]
)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
def test_scales_must_be_finite_and_not_negative(codec, scale):
    rows = codec.encode(codec.compress(normal(1, DIM).float(), Draws()))
    rows = broken(rows, slice(4, 8), np.array([scale], "<f4").view(np.uint8))
    with pytest.raises(MessageError):
        codec.decode(rows, DIM)


@pytest.mark.parametrize("codec", [Float32(), TopK(support(0.05))])
def test_nan_is_refused(codec):
    rows = codec.encode(codec.compress(normal(2, DIM).float(), Draws()))
    rows = broken(rows, slice(0, 4), np.array([np.nan], "<f4").view(np.uint8))
    with pytest.raises(MessageError, match="NaN"):
        codec.decode(rows, DIM)


def test_nothing_to_send_uploads_nothing():
    """An update that is zero decodes to zero, whatever signs it was given."""
    zero = torch.zeros(1, DIM)
    for codec in (
        TopK(support(0.05)),
        HeavySign(support(0.05)),
        BlockSign(SIZES),
        Quantizer(SIZES, 4, scaled=True),
    ):
        assert not codec.decode(codec.encode(codec.compress(zero, Draws())), DIM).any()
