"""The wire format: what crosses between a client and the server, byte for byte.

A message is a header and the payloads of its fields, one after another, little-endian throughout:

    magic "FSMU" | version u8 | fields u8 | round u32 | client u32 | check u32          18 bytes
    per field:  name 5 bytes, zero padded | codec u8 | elements u32 | length u32        14 bytes each

The check is the low half of the XXH3-64 of everything but itself, which takes a tenth of the time of a CRC-32. With
up to three fields a header takes at most 60 bytes; FedSMU's takes 32. The messages of a group of clients are one
uint8 array [C, length], so that a thousand tiny clients cost one object and not a thousand. No pickles: decoding can
run no code, and it allocates nothing that the receiver did not size itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.codecs import Codec

MAGIC, VERSION = b"FSMU", 2
SERVER = 0xFFFFFFFF  # the `client` of a broadcast
Fields = Mapping[str, Codec]


def _header_dtype(fields: int) -> np.dtype:
    field = np.dtype([("name", "S5"), ("codec", "u1"), ("elements", "<u4"), ("length", "<u4")])
    base = [
        ("magic", "S4"),
        ("version", "u1"),
        ("fields", "u1"),
        ("round", "<u4"),
        ("client", "<u4"),
        ("check", "<u4"),
    ]
    return np.dtype([*base, ("table", field, (fields,))])


def overhead(fields: Fields) -> int:
    """Header bytes of a message with these fields."""
    return _header_dtype(len(fields)).itemsize


def length(fields: Fields, dim: int) -> int:
    """Bytes of one whole message."""
    return overhead(fields) + sum(codec.size(dim) for codec in fields.values())


def _headers(fields: Fields, dim: int, round: int, clients: Sequence[int]) -> np.ndarray:
    head = np.zeros(len(clients), _header_dtype(len(fields)))
    head["magic"], head["version"], head["fields"], head["round"], head["client"] = (
        MAGIC,
        VERSION,
        len(fields),
        round,
        clients,
    )
    for i, (name, codec) in enumerate(fields.items()):
        head["table"][:, i] = (name.encode(), codec.code, dim, codec.size(dim))
    return head


def _check(message: np.ndarray) -> int:
    """Checksum of one message, uint8 [length], without its own four bytes (14 to 17)."""
    state = xxhash.xxh3_64(message[:14])
    state.update(message[18:])
    return state.intdigest() & 0xFFFFFFFF


def encode(
    fields: Fields, values: Mapping[str, Tensor], round: int, clients: Sequence[int]
) -> np.ndarray:
    """Messages of a group: `values` holds [C, P] per field; returns uint8 [C, length]."""
    dim = max((value.shape[-1] for value in values.values()), default=0)
    out = np.empty((len(clients), length(fields, dim)), np.uint8)
    at = overhead(fields)
    out[:, :at] = _headers(fields, dim, round, clients).view(np.uint8).reshape(len(clients), at)
    for name, codec in fields.items():
        size = codec.size(dim)
        out[:, at : at + size] = codec.encode(values[name])
        at += size
    out[:, 14:18] = np.array([_check(row) for row in out], "<u4").view(np.uint8).reshape(-1, 4)
    return out


def payloads(
    fields: Fields, messages: np.ndarray, dim: int, round: int, clients: Sequence[int]
) -> dict[str, np.ndarray]:
    """Check the messages of a group and return each field's uint8 [C, size] payload, without copying.

    Raises MessageError naming the sender and what is wrong, for anything but exactly what these clients should
    have sent in this round: wrong type, length, magic, version, round, client, field table or checksum.
    """
    who = f"round {round}, {'the server' if list(clients) == [SERVER] else 'clients ' + _names(clients)}"
    expected = length(fields, dim)
    if not isinstance(messages, np.ndarray) or messages.dtype != np.uint8 or messages.ndim != 2:
        raise MessageError(
            f"{who}: messages must be one uint8 array [clients, bytes], not {type(messages).__name__}"
        )
    if messages.shape != (len(clients), expected):
        raise MessageError(
            f"{who}: got {messages.shape[0]} messages of {messages.shape[1]} bytes, "
            f"expected {len(clients)} of {expected}"
        )
    at = overhead(fields)
    messages = np.ascontiguousarray(messages)
    want = _headers(fields, dim, round, clients)
    got = np.ascontiguousarray(messages[:, :at]).view(want.dtype).reshape(-1)
    want["check"] = got["check"]
    if want.tobytes() != got.tobytes():
        raise MessageError(_difference(want, got, round))
    for row, check, client in zip(messages, got["check"].tolist(), clients):
        if _check(row) != check:
            raise MessageError(
                f"round {round}, {_name(client)}: checksum mismatch, the message was altered on the way"
            )
    out = {}
    for name, codec in fields.items():
        out[name] = messages[:, at : at + codec.size(dim)]
        at += codec.size(dim)
    return out


def decode(
    fields: Fields, messages: np.ndarray, dim: int, round: int, clients: Sequence[int]
) -> dict[str, Tensor]:
    """The values [C, P] of every field; raises MessageError like `payloads`, and for impossible payloads."""
    values = {}
    for name, rows in payloads(fields, messages, dim, round, clients).items():
        try:
            values[name] = fields[name].decode(rows, dim)
        except MessageError as error:
            raise MessageError(
                f"round {round}, clients {_names(clients)}, field '{name}': {error}"
            ) from None
    return values


def _difference(want: np.ndarray, got: np.ndarray, round: int) -> str:
    """One sentence on the first header field that is not what it should be."""
    for w, g in zip(want, got):
        who = f"round {round}, {_name(int(w['client']))}"
        for key in ("magic", "version", "fields", "round", "client"):
            if w[key] != g[key]:
                return f"{who}: header says {key} {g[key].item()!r}, expected {w[key].item()!r}"
        for i, (wf, gf) in enumerate(zip(w["table"], g["table"])):
            for key in ("name", "codec", "elements", "length"):
                if wf[key] != gf[key]:
                    return f"{who}: field {i} says {key} {gf[key].item()!r}, expected {wf[key].item()!r}"
    return f"round {round}: header differs from the expected one in its padding"


def _name(client: int) -> str:
    return "the server" if client == SERVER else f"client {client}"


def _names(clients: Sequence[int]) -> str:
    clients = [str(int(c)) for c in clients]
    return ", ".join(
        clients if len(clients) <= 6 else [*clients[:5], f"... ({len(clients)} in all)"]
    )
