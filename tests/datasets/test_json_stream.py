"""JSON files read piece by piece, against json.loads."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsmu_ray.datasets import json_stream
from fedsmu_ray.datasets.json_stream import JsonStream

TEXT = st.text('ab"\\[]{},: \n\u20ac', max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def walked(stream):
    """The next value, of whose lists and objects every part is taken on its own."""
    match stream.peek():
        case b"{":
            return {key: walked(stream) for key in stream.members()}
        case b"[":
            return [element for block in stream.blocks() for element in block]
        case _:
            return stream.value()


def read(text, chunk, take=walked):
    before, json_stream.CHUNK = json_stream.CHUNK, chunk
    try:
        stream = JsonStream(io.BytesIO(text))
        value = take(stream)
        stream.end()
        return value
    finally:
        json_stream.CHUNK = before


@given(st.dictionaries(TEXT, VALUES), st.booleans(), st.sampled_from([None, 1]), st.integers(1, 40))
def test_documents_are_those_of_json_loads(value, ascii_only, indent, chunk):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode() + b" \n"
    assert read(text, chunk) == value
    assert read(text, chunk, JsonStream.value) == value


@given(st.dictionaries(TEXT, VALUES), st.data(), st.integers(1, 40))
def test_damaged_documents_are_refused_as_by_json_loads(value, data, chunk):
    text = json.dumps(value).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    more = data.draw(st.sampled_from([b"", b"]", b"}", b",", b'"', b"[", b"1"]))
    text = text[:at] + more + text[at + data.draw(st.integers(0, 2)) :]
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            read(text, chunk)
    else:
        # A number alone, where more might follow, is no document here.
        assert not isinstance(wanted, (dict, list)) or read(text, chunk) == wanted


@pytest.mark.parametrize(
    "text, error, message",
    [
        (b'{"a": [1, 2', ValueError, "it ends after 11 bytes"),
        (b'{"a": [1 2]}', ValueError, "in a value: .*, at byte 6"),
        (b'{"a": 1,}', ValueError, "expected a value after the comma, at byte 8"),
        (b'{"a": 1} {', ValueError, "expected the end of the file"),
        (b"{1: 2}", ValueError, "expected a key, at byte 1"),
        (b"1", TypeError, "expected an object at byte 0"),
        (b"oops", ValueError, "expected {, at byte 0"),
        (b"[1]", TypeError, "expected an object at byte 0"),
    ],
)
def test_what_is_wrong_and_where(text, error, message):
    def members(stream):
        return {key: stream.value() for key in stream.members()}

    with pytest.raises(error, match=message):
        read(text, 4, members)


def test_a_long_list_is_never_in_memory(monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    wanted = [[i, str(i)] for i in range(5000)]
    stream = JsonStream(io.BytesIO(json.dumps(wanted).encode()))
    found = []
    for block in stream.blocks():
        assert len(json.dumps(block)) < 1200 and len(stream.text) < 3000
        found += block
    assert found == wanted


def test_a_value_without_end_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(json_stream, "LARGEST", 5000)
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    file = io.BytesIO(b"[" + b"1, " * 100_000)
    with pytest.raises(ValueError, match="a value of more than 5,000 bytes, at byte 1"):
        walked(JsonStream(file))
    assert file.tell() < 10_000
