"""The wire format: the messages between clients and server, byte for byte.

A message is a header and the payloads of its fields, one after another, little-endian throughout:

    start:      magic "FSMU" | version u8 | fields u8 | round u32 | client u32 | check u32
    per field:  name 5 bytes, zero padded | codec u8 | elements u32 | length u32

The start has 18 bytes and the entry of a field 14. With up to three fields a header takes at most
60 bytes; FedSMU's takes 32. The check is the low half of the XXH3-64 of everything but itself,
which takes a tenth of the time of a CRC-32.

The messages of a client group are one uint8 array [C, length], so that a thousand tiny clients cost
one object and not a thousand. Nothing is pickled: decoding cannot run code, and it allocates only
what the receiver's own configuration asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.numerics.parameters import is_finite
from fedsmu_ray.wire.base import Bytes, Fields

T = TypeVar("T")

MAGIC, VERSION = b"FSMU", 2
SERVER = 0xFFFFFFFF  # the `client` of a broadcast
CHECK = slice(14, 18)  # the bytes of the checksum

_COMMON = [
    ("magic", "S4"),
    ("version", "u1"),
    ("fields", "u1"),
    ("round", "<u4"),
    ("client", "<u4"),
    ("check", "<u4"),
]
_FIELD = [("name", "S5"), ("codec", "u1"), ("elements", "<u4"), ("length", "<u4")]


@cache
def _header_dtype(fields: int) -> np.dtype[np.void]:
    return np.dtype([*_COMMON, ("table", np.dtype(_FIELD), (fields,))])


def overhead(fields: Fields) -> int:
    """Header bytes of a message with these fields."""
    return _header_dtype(len(fields)).itemsize


def length(fields: Fields, dim: int) -> int:
    """Bytes of one whole message."""
    return overhead(fields) + sum(codec.size(dim) for codec in fields.values())


def checksum(message: NDArray[np.uint8]) -> int:
    """Checksum of one message, uint8 [length], over all but the bytes of the checksum itself."""
    state = xxhash.xxh3_64(message[: CHECK.start])  # type: ignore[arg-type]
    state.update(message[CHECK.stop :])  # type: ignore[arg-type]
    return state.intdigest() & 0xFFFFFFFF


def encode(
    fields: Fields, values: Mapping[str, Tensor], round: int, clients: Sequence[int]
) -> Bytes:
    """Encode the messages of a group, uint8 [C, length]; `values` holds [C, P] per field."""
    dim = max((value.shape[-1] for value in values.values()), default=0)
    messages = np.empty((len(clients), length(fields, dim)), np.uint8)
    at = overhead(fields)
    messages[:, :at] = _headers(fields, dim, round, clients).view(np.uint8).reshape(-1, at)
    for name, codec in fields.items():
        size = codec.size(dim)
        messages[:, at : at + size] = codec.encode(values[name])
        at += size
    checks = np.array([checksum(row) for row in messages], "<u4")
    messages[:, CHECK] = checks.view(np.uint8).reshape(-1, 4)
    return messages


def decode(
    fields: Fields, messages: Bytes, dim: int, round: int, clients: Sequence[int]
) -> dict[str, Tensor]:
    """Decode the messages of a group: the values [C, P] of every field.

    Raises MessageError like `payloads`, for payloads that no encoder produces, and for NaN and Inf.
    """
    return {
        name: decode_field(name, partial(fields[name].decode, dim=dim), rows, round, clients)
        for name, rows in payloads(fields, messages, dim, round, clients).items()
    }


def decode_field(
    name: str, decode: Callable[[Bytes], T], rows: Bytes, round: int, clients: Sequence[int]
) -> T:
    """The decoded rows [C, size] of a field.

    Raises MessageError with the sender of a row that `decode` refuses, or that holds NaN or Inf.
    """
    try:
        return _finite(decode(rows))
    except MessageError as error:
        for client, row in zip(clients, rows):
            try:
                _finite(decode(row[None]))
            except MessageError as cause:
                where = f"round {round}, {_describe_client(int(client))}, field '{name}'"
                raise MessageError(f"{where}: {cause}") from None
        where = f"round {round}, {_describe_senders(clients)}, field '{name}'"
        raise MessageError(f"{where}: {error}") from None


def _finite(values: T) -> T:
    """The values, if none of them is NaN or Inf; bytes that are not decoded yet hold neither."""
    if isinstance(values, Tensor) and not is_finite(values):
        raise MessageError("holds NaN or Inf")
    return values


def payloads(
    fields: Fields, messages: Bytes, dim: int, round: int, clients: Sequence[int]
) -> dict[str, Bytes]:
    """Check the messages of a group; returns each field's payloads, uint8 [C, size], as views.

    Raises MessageError naming the sender and the error for anything but what these clients should
    have sent in this round: wrong type, length, magic, version, round, client, field table or
    checksum.
    """
    _check_shape(messages, length(fields, dim), round, clients)
    messages = np.ascontiguousarray(messages)
    _check_headers(messages, _headers(fields, dim, round, clients), round)
    _check_sums(messages, round, clients)
    at, rows = overhead(fields), {}
    for name, codec in fields.items():
        rows[name] = messages[:, at : at + codec.size(dim)]
        at += codec.size(dim)
    return rows


def _headers(fields: Fields, dim: int, round: int, clients: Sequence[int]) -> NDArray[np.void]:
    """The headers of a group's messages, [C], with checksums of zero."""
    headers = np.zeros(len(clients), _header_dtype(len(fields)))
    headers["magic"], headers["version"], headers["fields"] = MAGIC, VERSION, len(fields)
    headers["round"], headers["client"] = round, clients
    for i, (name, codec) in enumerate(fields.items()):
        headers["table"][:, i] = (name.encode(), codec.code, dim, codec.size(dim))
    return headers


def _check_shape(messages: Any, length: int, round: int, clients: Sequence[int]) -> None:
    where = f"round {round}, {_describe_senders(clients)}"
    if not isinstance(messages, np.ndarray) or messages.dtype != np.uint8 or messages.ndim != 2:
        kind = type(messages).__name__
        raise MessageError(
            f"{where}: messages must be one uint8 array [clients, bytes], not {kind}"
        )
    count, nbytes = messages.shape
    if (count, nbytes) != (len(clients), length):
        raise MessageError(
            f"{where}: got {count} messages of {nbytes} bytes, expected {len(clients)} of {length}"
        )


def _check_headers(messages: Bytes, expected: NDArray[np.void], round: int) -> None:
    """Compare the headers, except for their checksums."""
    raw = np.ascontiguousarray(messages[:, : expected.itemsize])
    received = raw.view(expected.dtype).reshape(-1)
    expected["check"] = received["check"]
    if expected.tobytes() != received.tobytes():
        raise MessageError(_describe_difference(expected, received, round))


def _check_sums(messages: Bytes, round: int, clients: Sequence[int]) -> None:
    checks = np.ascontiguousarray(messages[:, CHECK]).view("<u4")[:, 0].tolist()
    for message, check, client in zip(messages, checks, clients):
        if checksum(message) != check:
            raise MessageError(
                f"round {round}, {_describe_client(client)}: checksum mismatch, the message was "
                "altered in transit"
            )


def _describe_difference(expected: NDArray[np.void], received: NDArray[np.void], round: int) -> str:
    """One sentence on the first header field that differs."""
    for want, got in zip(expected, received):
        where = f"round {round}, {_describe_client(int(want['client']))}"
        for key, _ in _COMMON:
            if want[key] != got[key]:
                return f"{where}: header says {key} {_values(got, want, key)}"
        for i, (want_field, got_field) in enumerate(zip(want["table"], got["table"])):
            for key, _ in _FIELD:
                if want_field[key] != got_field[key]:
                    return f"{where}: field {i} says {key} {_values(got_field, want_field, key)}"
    return f"round {round}: header differs from the expected one in its padding"


def _values(received: np.void, expected: np.void, key: str) -> str:
    return f"{received[key].item()!r}, expected {expected[key].item()!r}"


def _describe_client(client: int) -> str:
    return "the server" if client == SERVER else f"client {client}"


def _describe_senders(clients: Sequence[int]) -> str:
    if list(clients) == [SERVER]:
        return "the server"
    names = [str(int(client)) for client in clients]
    if len(names) > 6:
        names = [*names[:5], f"... ({len(names)} in all)"]
    return f"clients {', '.join(names)}"
