"""All codecs: round trips, the documented sizes, and rejection of invalid bytes."""

from functools import partial

import numpy as np
import pytest
import torch

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Float32, Integers, Sign, Trit
from tests.helpers.codecs import CODECS, DIM, FakeDraws
from tests.helpers.quadratics import normal


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 0.0])
def test_decoded_is_what_was_encoded(codec, scale):
    v = (scale * normal(3, DIM)).float()
    v[1, ::7] = 0.0
    value = codec.compress(v, FakeDraws())
    rows = codec.encode(value)
    assert rows.shape == (3, codec.size(DIM)) and rows.dtype == np.uint8
    decoded = codec.decode(rows, DIM)
    assert torch.equal(decoded, value)
    assert torch.equal(codec.compress(v, FakeDraws()), value)
    total = codec.accumulator(DIM, True)
    total.add(2, total.decode(rows[2:]))
    total.add(0, total.decode(rows[:2]))
    torch.testing.assert_close(total.mean(), value.double().mean(0).float(), rtol=1e-5, atol=1e-37)
    assert 1 / 3 - 1e-6 <= total.uniformity() <= 1 + 1e-6


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_each_client_is_encoded_alone(codec):
    value = codec.compress(normal(3, DIM).float(), FakeDraws())
    assert np.array_equal(codec.encode(value)[1], codec.encode(value[1:2])[0])


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_any_bytes_are_refused_or_finite(codec):
    noise = np.random.default_rng(0)
    for trial in range(40):
        rows = noise.integers(0, 256, (1, codec.size(DIM)), np.uint8)
        if trial % 2:  # a valid payload with one changed byte passes more checks
            value = codec.compress(normal(1, DIM, seed=trial).float(), FakeDraws())
            rows = codec.encode(value).copy()
            rows[0, noise.integers(rows.shape[1])] ^= noise.integers(1, 256, dtype=np.uint8)
        try:
            decode = partial(codec.decode, dim=DIM)
            decoded = message.decode_field("v", decode, rows, 1, [0])
        except MessageError:
            continue
        assert decoded.shape == (1, DIM) and torch.isfinite(decoded).all()


def test_documented_bits():
    d = DIM

    def up(bits):
        return -(-bits // 8)

    assert Float32().size(d) == 4 * d and Sign().size(d) == up(d) and Trit().size(d) == -(-d // 5)
    assert Integers(50).size(d) == up(7 * d)  # 101 values
    assert Integers(500).size(d) == up(10 * d)  # 1001 values
    assert Integers(10, 2).size(d) == up(4 * d)  # 11 votes
    assert Integers(3, 2).size(d) == up(2 * d)  # 4 votes


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
    assert rows.shape[1] == codec.size(len(values))
    assert torch.equal(codec.decode(rows, len(values)), value)
    if codec.values != 2**codec.bits:
        with pytest.raises(MessageError, match="integer"):
            codec.decode(np.full((1, 2 * codec.bits), 255, np.uint8), 16)
    with pytest.raises(AssertionError):
        codec.encode(torch.full((1, 4), codec.bound + codec.step))
