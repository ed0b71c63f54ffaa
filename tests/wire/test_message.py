"""The wire format: what goes in comes out, sizes are what they say, and nothing altered is accepted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Float32, Integers, Sign, Trit
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, Support, TopK

COUNTS = {"lenet10": (797_962, 99_746), "lenet100": (815_332, 101_917), "lstm": (133_520, 16_690)}


def random_values(codec, clients, dim, seed):
    g = torch.Generator().manual_seed(seed)
    if isinstance(codec, Float32):
        return torch.randn(clients, dim, generator=g)
    levels = torch.tensor([-1, 1] if isinstance(codec, Sign) else [-1, 0, 1], dtype=torch.int8)
    return levels[torch.randint(len(levels), (clients, dim), generator=g)]


codecs = st.sampled_from([Float32(), Sign(), Trit()])


@given(codecs, st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**31))
def test_round_trip_and_size(codec, clients, dim, seed):  # any dim, divisible by 8 or 5 or not
    value = random_values(codec, clients, dim, seed)
    ids = list(range(7, 7 + clients))
    packed = message.encode({"u": codec}, {"u": value}, 3, ids)
    assert packed.shape == (clients, message.overhead({"u": codec}) + codec.size(dim))
    assert torch.equal(message.decode({"u": codec}, packed, dim, 3, ids)["u"], value)


@pytest.mark.parametrize("dim, payload", COUNTS.values(), ids=COUNTS)
def test_payload_of_the_papers_models(dim, payload):  # oracle 10
    assert Sign().size(dim) == payload == -(-dim // 8)
    assert message.length({"u": Sign()}, dim) == payload + 32


def test_header_stays_within_64_bytes_up_to_three_fields():
    fields = {"x": Float32(), "c": Float32(), "delta": Sign()}
    assert [message.overhead(dict(list(fields.items())[:n])) for n in (1, 2, 3)] == [32, 46, 60]


def test_several_fields_round_trip():
    fields = {"u": Sign(), "m": Float32()}
    values = {"u": random_values(Sign(), 2, 13, 0), "m": random_values(Float32(), 2, 13, 1)}
    out = message.decode(fields, message.encode(fields, values, 1, [4, 9]), 13, 1, [4, 9])
    assert all(torch.equal(out[name], values[name]) for name in fields)


@settings(max_examples=300)
@given(codecs, st.integers(1, 40), st.data())
def test_every_altered_byte_is_refused(codec, dim, data):
    packed = message.encode({"u": codec}, {"u": random_values(codec, 2, dim, 1)}, 3, [1, 2])
    row, at = data.draw(st.integers(0, 1)), data.draw(st.integers(0, packed.shape[1] - 1))
    packed[row, at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageError):
        message.decode({"u": codec}, packed, dim, 3, [1, 2])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(raw):
    with pytest.raises(MessageError):
        message.decode({"u": Sign()}, np.frombuffer(raw, np.uint8)[None], 13, 1, [0])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda p: (p, 13, 4, [1]), "header says round 3, expected 4"),
        (lambda p: (p, 13, 3, [2]), "client 2: header says client 1, expected 2"),
        (lambda p: (p[:, :-1], 13, 3, [1]), "got 1 messages of 33 bytes, expected 1 of 34"),
        (lambda p: (p, 12, 3, [1]), "field 0 says elements 13, expected 12"),
        (lambda p: (p.tobytes(), 13, 3, [1]), "one uint8 array"),
        (lambda p: (np.concatenate([p, p]), 13, 3, [1]), "got 2 messages"),
    ],
)
def test_refusals_name_the_cause(change, words):
    packed = message.encode({"u": Sign()}, {"u": random_values(Sign(), 1, 13, 0)}, 3, [1])
    changed, dim, round, clients = change(packed)
    with pytest.raises(MessageError, match=words):
        message.decode({"u": Sign()}, changed, dim, round, clients)


def test_wrong_codec_and_field_name_are_named():
    packed = message.encode({"u": Sign()}, {"u": random_values(Sign(), 1, 8, 0)}, 1, [0])
    with pytest.raises(MessageError, match="expected 1 of"):
        message.decode({"u": Float32()}, packed, 8, 1, [0])
    with pytest.raises(MessageError, match="field 0 says name b'u', expected b'v'"):
        message.decode({"v": Sign()}, packed, 8, 1, [0])


def reseal(packed):
    """Give an altered payload a valid checksum: what is left to refuse it is the codec."""
    for row in packed:
        row[14:18] = np.array([message._check(row)], "<u4").view(np.uint8)
    return packed


@pytest.mark.parametrize(
    "codec, byte, words",
    [
        (Sign(), 0x80, "padding bits"),
        (Trit(), 243, "above 242"),
        (Trit(), 2 * 81, "padding digits"),
    ],
)
def test_impossible_payloads_are_refused(codec, byte, words):
    packed = message.encode(
        {"u": codec}, {"u": random_values(codec, 1, 7 if isinstance(codec, Sign) else 4, 0)}, 1, [0]
    )
    packed[0, -1] = byte
    with pytest.raises(MessageError, match=words):
        message.decode({"u": codec}, reseal(packed), 7 if isinstance(codec, Sign) else 4, 1, [0])


SIZES = (9, 1, 20)
EVERY_KIND = [
    Float32(),
    Sign(),
    Trit(),
    Integers(5),
    Integers(10, 2),
    TopK(Support(SIZES, 0.1, "index")),
    TopK(Support(SIZES, 0.3, "mask")),
    TopK(Support((30,), 0.1, "index32")),
    HeavySign(Support(SIZES, 0.2, "min")),
    BlockSign(SIZES),
    Quantizer(SIZES, 4, scaled=True),
    Quantizer(SIZES, 3, False, scaled=True),
    Quantizer(SIZES, 5),
]


class Plus:
    def sign(self, v, zero_rule):
        return (torch.sign(v) + (v == 0) * (zero_rule != "zero")).to(torch.int8)

    def uniform(self, v):
        return torch.full_like(v, 0.5)


def honest(codec, seed):
    """A message of round 3 from client 7, of ordinary, sparse, tiny or zero values."""
    g = torch.Generator().manual_seed(seed)
    scale, kept = (1.0, 1e-44, 1e-38, 1e15)[seed % 4], (1, 0.1, 0.5, 0)[seed // 4 % 4]
    v = torch.randn(1, 30, generator=g) * scale * (torch.rand(1, 30, generator=g) < kept)
    if isinstance(codec, Integers):
        v = torch.randint(codec.values, (1, 30), generator=g) * codec.step - codec.bound
    return message.encode({"u": codec}, {"u": codec.compress(v, Plus())}, 3, [7])


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize("codec", EVERY_KIND, ids=repr)
def test_behind_a_valid_checksum_only_what_an_encoder_writes_is_accepted(codec, data):
    fields, packed = {"u": codec}, honest(codec, data.draw(st.integers(0, 99)))
    assert np.array_equal(
        message.encode(fields, message.decode(fields, packed, 30, 3, [7]), 3, [7]), packed
    )
    extremes = st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, packed.shape[1] - 1), extremes), min_size=1, max_size=6)
    ):
        packed[0, at] = byte
    if data.draw(st.booleans()):
        packed[0, 32:] = np.frombuffer(
            data.draw(st.binary(min_size=codec.size(30), max_size=codec.size(30))), np.uint8
        )
    try:
        values = message.decode(fields, reseal(packed), 30, 3, [7])
    except MessageError:
        return
    assert torch.isfinite(values["u"]).all() and np.array_equal(
        message.encode(fields, values, 3, [7]), packed
    )


@pytest.mark.parametrize(
    "codec, at, byte",
    [
        (
            TopK(Support((4,), 0.25, "index")),
            4,
            3,
        ),  # a kept zero in another place than an encoder's
        (HeavySign(Support((4,), 0.5, "index")), 4, 1),  # a sign for a magnitude of zero
        (HeavySign(Support((4,), 0.5, "index")), 3, 0x80),  # -0.0 for a magnitude
        (BlockSign((4,)), 4, 15),
        (BlockSign((4,)), 3, 0x80),
        (Quantizer((4,), 2, scaled=True), 4, 0xAA),  # the levels of something, times zero
        (Quantizer((4,), 3, scaled=True), 3, 0x3F),  # a scale that no entry reaches
    ],
    ids=repr,
)
def test_one_value_has_one_way_to_be_written(codec, at, byte):
    packed = message.encode({"u": codec}, {"u": torch.zeros(1, 4)}, 1, [0])
    packed[0, 32 + at] = byte
    with pytest.raises(MessageError):
        message.decode({"u": codec}, reseal(packed), 4, 1, [0])


@pytest.mark.parametrize(
    "codec", [Quantizer(SIZES, 4, scaled=True), Quantizer(SIZES, 8, False, scaled=True)], ids=repr
)
@pytest.mark.parametrize("scale", 10.0 ** np.arange(-45, -28))
def test_tiny_values_are_what_the_server_decodes(codec, scale):
    v = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    value = codec.compress(v * float(scale), Plus())
    assert torch.equal(codec.decode(codec.encode(value), 30), value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_refused(bad):
    value = torch.zeros(2, 9)
    value[1, 4] = bad
    packed = message.encode({"x": Float32()}, {"x": value}, 1, [0, 5])
    with pytest.raises(MessageError, match="holds NaN or Inf"):
        message.decode({"x": Float32()}, packed, 9, 1, [0, 5])


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**31), st.randoms())
def test_vote_counter_is_exact_in_any_order_and_grouping(clients, dim, seed, order):  # oracle 7
    value = random_values(Sign(), clients, dim, seed)
    rows = Sign().encode(value)
    counter = Sign().accumulator(dim, False)
    shuffled = list(range(clients))
    order.shuffle(shuffled)
    while shuffled:
        take = order.randint(1, len(shuffled))
        counter.add(counter.decode(rows[shuffled[:take]]))
        shuffled = shuffled[take:]
    votes = value.int().sum(0, dtype=torch.int32)
    assert ((votes - clients) % 2 == 0).all() and (votes.abs() <= clients).all()
    assert torch.equal(counter.mean(), votes.float() / clients)


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 2**31))
def test_other_accumulators_agree_with_the_definition(clients, dim, seed):
    for codec in (Float32(), Trit()):
        value = random_values(codec, clients, dim, seed)
        total = codec.accumulator(dim, True)
        for row in codec.encode(value):
            total.add(total.decode(row[None]))
        torch.testing.assert_close(total.mean(), value.float().mean(0), rtol=1e-5, atol=1e-6)
        a = value.double().abs()
        kept = a.sum(0) > 0
        jain = a.sum(0)[kept] ** 2 / (clients * (a**2).sum(0)[kept])
        assert total.uniformity() == pytest.approx(
            float(jain.mean()) if kept.any() else 1.0, rel=1e-5
        )


def test_uniformity_reference_values():  # oracle 29
    g = torch.Generator().manual_seed(0)
    dense = Float32().accumulator(200_000, True)
    dense.add(torch.randn(10, 200_000, generator=g))
    assert dense.uniformity() == pytest.approx(0.673, abs=0.002)
    one = Float32().accumulator(4, True)
    one.add(torch.tensor([[1.0, 0, 0, 2]] + [[0.0] * 4] * 4))
    assert one.uniformity() == pytest.approx(1 / 5)
