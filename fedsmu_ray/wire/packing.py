"""Unsigned integers of any width as bits, without gaps, in little bit order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.base import Bytes


def pack(codes: NDArray[Any], bits: int) -> Bytes:
    """Integers [C, N] from 0 to 2^bits - 1 to uint8 [C, ceil(N bits / 8)], lowest bit first."""
    codes = codes.astype(np.uint8 if bits <= 8 else np.uint32)
    if bits == 8:
        return codes
    planes = np.empty((*codes.shape, bits), np.uint8)
    for j in range(bits):
        planes[..., j] = (codes >> j) & 1
    return np.packbits(planes.reshape(len(codes), -1), axis=-1, bitorder="little")


def unpack(rows: Bytes, count: int, bits: int) -> NDArray[np.int64]:
    """The inverse of `pack`: uint8 [C, ceil(count bits / 8)] to int64 [C, count].

    Raises MessageError if padding bits are set.
    """
    check_padding(rows, count * bits)
    flat = np.unpackbits(rows, axis=-1, count=count * bits, bitorder="little")
    planes = flat.reshape(len(rows), count, bits)
    codes = np.zeros((len(rows), count), np.int64)
    for j in range(bits):
        codes |= planes[..., j].astype(np.int64) << j
    return codes


def check_padding(rows: Bytes, bits: int) -> None:
    """Raise MessageError if a bit beyond the first `bits` is set in rows [C, ceil(bits / 8)]."""
    used = bits % 8  # of the last byte
    if used and (rows[:, -1] >> used).any():
        raise MessageError("padding bits are set")
