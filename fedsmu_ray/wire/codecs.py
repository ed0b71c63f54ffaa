"""Tensors <-> bytes. Lossless: what loses something on purpose is in `compressors`, whose classes are codecs too.

A codec encodes the rows of a [C, P] tensor (one row per client) into uint8 [C, size(P)]; encode -> decode is the
identity on the values it carries. `compress` makes such values out of any tensor: they are what the server will
decode, and so what a client's residuals and shifts are computed from. Every codec names the accumulator that turns
received rows into the mean the server works on.

Bits for d coordinates, rounded up to whole bytes: Float32 32 d, Sign d, Trit 8 ceil(d / 5), Integers d ceil(log2(values)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.numerics.parameters import as_tensor, finite
from fedsmu_ray.wire.accumulators import Accumulator, OrderedMean, TritCounter, VoteCounter


class Draws(Protocol):
    """The randomness of a group of clients: a pure function of (seed, round, client)."""

    def sign(self, v: Tensor, zero_rule: str) -> Tensor:
        """Signs of v [C, P], int8: exact zeros give 0 (`zero`), +1 (`plus`) or a fair coin (`random`)."""

    def uniform(self, v: Tensor) -> Tensor:
        """One draw from [0, 1) for every element of v [C, P], in v's dtype."""


class Codec(Protocol):
    code: ClassVar[int]  # identifies the codec on the wire

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        """[C, P] -> [C, P]: the value the receiver will decode instead of v; the identity on values it can carry."""

    def size(self, dim: int) -> int:
        """Bytes of one client's payload for `dim` coordinates."""

    def encode(self, value: Tensor) -> np.ndarray:
        """[C, P] -> uint8 [C, size(P)]."""

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        """uint8 [C, size(dim)] -> [C, dim]; raises MessageError for bytes no encoder produces."""

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        """A fresh accumulator; `uniformity` says whether `uniformity()` will be asked for."""


@dataclass(frozen=True)
class Float32:
    """Dense little-endian float32: 4 bytes per coordinate."""

    code: ClassVar[int] = 1

    def size(self, dim: int) -> int:
        return 4 * dim

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return v

    def encode(self, value: Tensor) -> np.ndarray:
        return np.ascontiguousarray(value.detach().cpu().numpy(), dtype="<f4").view(np.uint8)

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        """Where the rows are aligned, a view of their memory, which may be read-only."""
        if any(at % 4 for at in (rows.ctypes.data, *rows.strides[:-1])):
            rows = np.array(rows)
        value = as_tensor(rows.view(np.float32))
        if not finite(value):
            row = next(i for i, row in enumerate(value) if not finite(row))
            raise MessageError(f"row {row} holds NaN or Inf")
        return value

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class Sign:
    """One bit per coordinate, 1 for +1 and 0 for -1; bit j of the payload is coordinate j (little bit order)."""

    code: ClassVar[int] = 2
    zero_rule: Literal["random", "plus"] = "random"  # what `compress` makes of an exact zero

    def size(self, dim: int) -> int:
        return -(-dim // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return draws.sign(v, self.zero_rule)

    def encode(self, value: Tensor) -> np.ndarray:
        return np.packbits(value.cpu().numpy() > 0, axis=-1, bitorder="little")

    def check(self, rows: np.ndarray, dim: int) -> None:
        if dim % 8 and (rows[:, -1] >> (dim % 8)).any():
            raise MessageError("padding bits are set")

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        self.check(rows, dim)
        bits = np.unpackbits(rows, axis=-1, count=dim, bitorder="little").view(np.int8)
        return torch.from_numpy(2 * bits - 1)

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return VoteCounter(self, dim)


# Byte -> the five base-3 digits it stands for, least significant first, as values -1, 0, +1.
_TRITS = ((np.arange(256)[:, None] // 3 ** np.arange(5)) % 3 - 1).astype(np.int8)


@dataclass(frozen=True)
class Trit:
    """Values in {-1, 0, +1}, five to the byte in base 3."""

    code: ClassVar[int] = 3

    def size(self, dim: int) -> int:
        return -(-dim // 5)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return draws.sign(v, "zero")

    def encode(self, value: Tensor) -> np.ndarray:
        clients, dim = value.shape
        digits = np.ones((clients, 5 * self.size(dim)), np.uint8)  # padding is the digit of 0
        digits[:, :dim] = value.cpu().numpy() + 1
        packed = digits[:, 4::5].copy()
        for place in (3, 2, 1, 0):
            packed *= 3
            packed += digits[:, place::5]
        return packed

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        if (rows > 242).any():
            raise MessageError("a byte above 242 stands for no five ternary digits")
        trits = _TRITS[rows].reshape(len(rows), -1)
        if trits[:, dim:].any():
            raise MessageError("padding digits are set")
        return torch.from_numpy(trits[:, :dim])

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return TritCounter(self, dim)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers [C, N] below 2^bits -> uint8 [C, ceil(N bits / 8)]; bit j of a code before bit j + 1."""
    if bits == 8:
        return codes.astype(np.uint8)
    planes = np.empty((*codes.shape, bits), np.uint8)
    for j in range(bits):
        planes[..., j] = (codes >> j) & 1
    return np.packbits(planes.reshape(len(codes), -1), axis=-1, bitorder="little")


def unpack(rows: np.ndarray, count: int, bits: int) -> np.ndarray:
    """The inverse of `pack`: uint8 [C, ceil(count bits / 8)] -> int64 [C, count]; raises MessageError for set padding."""
    unused = 8 * rows.shape[-1] - count * bits
    if unused and (rows[:, -1] >> (8 - unused)).any():
        raise MessageError("padding bits are set")
    planes = np.unpackbits(rows, axis=-1, count=count * bits, bitorder="little").reshape(
        len(rows), count, bits
    )
    codes = np.zeros((len(rows), count), np.int64)
    for j in range(bits):
        codes |= planes[..., j].astype(np.int64) << j
    return codes


@dataclass(frozen=True)
class Integers:
    """Integers -bound, -bound + step, ..., bound, each in ceil(log2(values)) bits.

    INT(R), the displacement of R sign steps, is Integers(R); VOTE(n), the sum of n signs, is Integers(n, 2).
    """

    code: ClassVar[int] = 4
    bound: int
    step: int = 1

    @property
    def values(self) -> int:
        return 2 * self.bound // self.step + 1

    @property
    def bits(self) -> int:
        return (self.values - 1).bit_length()

    def size(self, dim: int) -> int:
        return -(-dim * self.bits // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return v

    def encode(self, value: Tensor) -> np.ndarray:
        codes = (value.cpu().to(torch.int32).numpy() + self.bound) // self.step
        assert codes.min() >= 0 and codes.max() < self.values, (
            f"integers beyond {self.bound} cannot be sent"
        )
        return pack(codes.astype(np.uint8 if self.bits <= 8 else np.uint32), self.bits)

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        codes = unpack(rows, dim, self.bits)
        if codes.max() >= self.values:
            raise MessageError(f"a code stands for no integer in [-{self.bound}, {self.bound}]")
        return torch.from_numpy((codes * self.step - self.bound).astype(np.float32))

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)  # exact: float32 holds integers up to 2^24
