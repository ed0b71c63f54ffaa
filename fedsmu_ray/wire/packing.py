"""Unsigned integers of any width, and signs, as bits without gaps, in little bit order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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


def pack_positive(value: Tensor) -> Bytes:
    """One bit for each entry of value [C, P], 1 where it is above 0: uint8 [C, ceil(P / 8)].

    Coordinate j is bit j. The bits are packed on the device of `value`, so that only they are
    copied to the host.
    """
    if value.device.type == "cpu":
        return np.packbits(value.numpy() > 0, axis=-1, bitorder="little")
    bits = F.pad((value > 0).to(torch.uint8), (0, -value.shape[-1] % 8))
    places = torch.arange(8, dtype=torch.uint8, device=value.device)
    octets = bits.view(len(value), -1, 8) << places
    packed: Bytes = octets.sum(-1, dtype=torch.uint8).cpu().numpy()
    return packed


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
