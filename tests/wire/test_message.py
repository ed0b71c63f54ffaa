"""The wire format: round trips, documented sizes, and rejection of altered messages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Float32, Integers, Sign, Trit
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, Support, TopK
from tests.helpers.codecs import FakeDraws, random_values, reseal

COUNTS = {"lenet10": (797_962, 99_746), "lenet100": (815_332, 101_917), "lstm": (133_520, 16_690)}

codecs = st.sampled_from([Float32(), Sign(), Trit()])


@given(codecs, st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**31))
def test_round_trip_and_size(
    codec, clients, dim, seed
):  # any dim, whether divisible by 8 or 5 or not
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
def test_error_messages_name_the_cause(change, words):
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


@pytest.mark.parametrize(
    "codec, byte, words",
    [
        (Sign(), 0x80, "padding bits"),
        (Trit(), 243, "above 242"),
        (Trit(), 2 * 81, "padding digits"),
    ],
)
def test_impossible_payloads_are_refused(codec, byte, words):
    dim = 7 if isinstance(codec, Sign) else 4
    packed = message.encode({"u": codec}, {"u": random_values(codec, 1, dim, 0)}, 1, [0])
    packed[0, -1] = byte
    with pytest.raises(MessageError, match=words):
        message.decode({"u": codec}, reseal(packed), dim, 1, [0])


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


def valid_message(codec, seed):
    """A message of round 3 from client 7, of ordinary, sparse, tiny or zero values."""
    g = torch.Generator().manual_seed(seed)
    scale, kept = (1.0, 1e-44, 1e-38, 1e15)[seed % 4], (1, 0.1, 0.5, 0)[seed // 4 % 4]
    v = torch.randn(1, 30, generator=g) * scale * (torch.rand(1, 30, generator=g) < kept)
    if isinstance(codec, Integers):
        v = torch.randint(codec.values, (1, 30), generator=g) * codec.step - codec.bound
    return message.encode({"u": codec}, {"u": codec.compress(v, FakeDraws())}, 3, [7])


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize("codec", EVERY_KIND, ids=repr)
def test_behind_a_valid_checksum_only_what_an_encoder_writes_is_accepted(codec, data):
    fields, packed = {"u": codec}, valid_message(codec, data.draw(st.integers(0, 99)))
    values = message.decode(fields, packed, 30, 3, [7])
    assert np.array_equal(message.encode(fields, values, 3, [7]), packed)
    extremes = st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)
    change = st.tuples(st.integers(0, packed.shape[1] - 1), extremes)
    for at, byte in data.draw(st.lists(change, min_size=1, max_size=6)):
        packed[0, at] = byte
    if data.draw(st.booleans()):
        size = codec.size(30)
        noise = data.draw(st.binary(min_size=size, max_size=size))
        packed[0, 32:] = np.frombuffer(noise, np.uint8)
    try:
        values = message.decode(fields, reseal(packed), 30, 3, [7])
    except MessageError:
        return
    assert torch.isfinite(values["u"]).all()
    assert np.array_equal(message.encode(fields, values, 3, [7]), packed)


@pytest.mark.parametrize("codec", [Float32(), TopK(Support((9,), 0.2, "index"))])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_refused(codec, bad):
    value = torch.zeros(2, 9)
    value[1, 4] = bad
    packed = message.encode({"x": codec}, {"x": value}, 1, [0, 5])
    with pytest.raises(MessageError, match="client 5, field 'x': holds NaN or Inf"):
        message.decode({"x": codec}, packed, 9, 1, [0, 5])


@pytest.mark.parametrize(
    "clients, sender",
    [([message.SERVER], "the server"), ([0, 5], "client 5"), (range(8), "client 7")],
)
def test_senders_of_impossible_payloads_are_named(clients, sender):
    value = torch.zeros(len(clients), 9)
    value[-1, 3] = float("nan")
    packed = message.encode({"x": Float32()}, {"x": value}, 1, clients)
    with pytest.raises(MessageError, match=f"^round 1, {sender}, field 'x': holds NaN or Inf$"):
        message.decode({"x": Float32()}, packed, 9, 1, clients)
