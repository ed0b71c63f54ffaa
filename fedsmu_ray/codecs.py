"""Tensors <-> bytes, and exact accumulators that add up encoded payloads.

A codec encodes the rows of a [C, P] tensor (one row per client) into uint8 [C, size(P)]; encode -> decode is the
identity on the values it carries. Every codec names the accumulator that turns received rows into the mean the
server works on: sums of signs are integers and so exact in any order, float sums are taken in client order.

Bits for d coordinates, rounded up to whole bytes: Float32 32 d, Sign d, Trit 8 ceil(d / 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.errors import MessageError


class Accumulator(Protocol):
    """Adds up encoded rows of several clients."""

    def add(self, rows: np.ndarray) -> None:
        """Add uint8 [C, size] rows, in client order."""

    def mean(self) -> Tensor:
        """Mean over everything added, float32 [P]."""

    def uniformity(self) -> float:
        """Magnitude uniformity: the mean over coordinates of Jain's index, in [1/n, 1]."""


class Codec(Protocol):
    code: ClassVar[int]  # identifies the codec on the wire

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

    def encode(self, value: Tensor) -> np.ndarray:
        return np.ascontiguousarray(value.detach().cpu().numpy(), dtype="<f4").view(np.uint8)

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        # A fresh array: rows come out of a message at any alignment and may be read-only shared memory.
        values = np.empty((len(rows), dim), np.float32)
        values.view(np.uint8)[...] = rows
        value = torch.from_numpy(values)
        # A float64 sum of finite float32 values is finite, and NaN or Inf in any of them survives it.
        for i, total in enumerate(value.sum(-1, dtype=torch.float64).tolist()):
            if not np.isfinite(total):
                raise MessageError(f"row {i} holds NaN or Inf")
        return value

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class Sign:
    """One bit per coordinate, 1 for +1 and 0 for -1; bit j of the payload is coordinate j (little bit order)."""

    code: ClassVar[int] = 2

    def size(self, dim: int) -> int:
        return -(-dim // 8)

    def encode(self, value: Tensor) -> np.ndarray:
        return np.packbits((value > 0).cpu().numpy(), axis=-1, bitorder="little")

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


class OrderedMean:
    """Float sum taken row by row, in the order of the calls."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim)
        self.squares = torch.zeros(dim) if uniformity else None
        self.magnitudes = torch.zeros(dim) if uniformity else None

    def add(self, rows: np.ndarray) -> None:
        for value in self.codec.decode(rows, self.dim):
            self.total += value
            if self.squares is not None:
                self.magnitudes += value.abs()
                self.squares += value.square()
        self.count += len(rows)

    def mean(self) -> Tensor:
        return self.total / self.count

    def uniformity(self) -> float:
        kept = self.squares > 0  # a coordinate nobody changed is 0/0 and left out
        jain = self.magnitudes[kept].square() / (self.count * self.squares[kept])
        return float(jain.double().mean()) if len(jain) else 1.0


class VoteCounter:
    """Counts +1 votes per coordinate exactly, without unpacking the messages.

    The counts are bit-sliced: bit k of coordinate j's count is bit j of `planes[k]`, laid out like a message, so
    adding a message is a ripple-carry addition with a few logical operations on d/8 bytes.
    """

    def __init__(self, codec: Sign, dim: int) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.planes: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        self.codec.check(rows, self.dim)
        for row in rows:
            self.count += 1
            carry = row
            for plane in self.planes:
                overflow = plane & carry
                plane ^= carry
                carry = overflow
            if self.count.bit_length() > len(self.planes):
                self.planes.append(carry.copy())

    def votes(self) -> Tensor:
        """The sum of the signs, int32 [P]: an integer in [-n, n] with the parity of n."""
        positive = np.zeros(self.dim, np.int32)
        for k, plane in enumerate(self.planes):
            positive += np.unpackbits(plane, count=self.dim, bitorder="little").astype(np.int32) << k
        return torch.from_numpy(2 * positive - self.count)

    def mean(self) -> Tensor:
        return self.votes().float() / self.count

    def uniformity(self) -> float:
        return 1.0  # every client sends magnitude 1 in every coordinate


class TritCounter:
    """Sums of -1, 0, +1 as integers, and how many were not 0."""

    def __init__(self, codec: Trit, dim: int) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim, dtype=torch.int32)
        self.nonzero = torch.zeros(dim, dtype=torch.int32)

    def add(self, rows: np.ndarray) -> None:
        for value in self.codec.decode(rows, self.dim):
            self.total += value
            self.nonzero += value.abs()
        self.count += len(rows)

    def mean(self) -> Tensor:
        return self.total.float() / self.count

    def uniformity(self) -> float:
        kept = self.nonzero[self.nonzero > 0]  # for 0/1 magnitudes Jain's index is the share of ones
        return float(kept.double().mean()) / self.count if len(kept) else 1.0
