"""Codecs that lose nothing of the values they are made for; lossy ones are in `compressors`.

Bits for d coordinates, rounded up to whole bytes: Float32 32 d, Sign d, Trit 8 ceil(d / 5),
Integers d ceil(log2(values)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.wire.accumulators import PairwiseMean, TritCounter, vote_counter
from fedsmu_ray.wire.base import Accumulator, Bytes, Codec, Draws
from fedsmu_ray.wire.packing import check_padding, pack, pack_positive, unpack


class Averaged:
    """Base of the codecs whose values are averaged as floats."""

    def accumulator(self: Codec, dim: int, uniformity: bool) -> Accumulator:
        return PairwiseMean(self, dim, uniformity)


@dataclass(frozen=True)
class Float32(Averaged):
    """Dense little-endian float32: 4 bytes per coordinate."""

    code: ClassVar[int] = 1

    def size(self, dim: int) -> int:
        return 4 * dim

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return v

    def encode(self, value: Tensor) -> Bytes:
        return np.ascontiguousarray(value.detach().cpu().numpy(), dtype="<f4").view(np.uint8)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        """Return a view of the rows' memory, which may be read-only, if they are aligned.

        NaN and Inf are left to the receiver, who refuses them whatever the codec.
        """
        if any(at % 4 for at in (rows.ctypes.data, *rows.strides[:-1])):
            rows = np.array(rows)
        return as_tensor(rows.view(np.float32))


@dataclass(frozen=True)
class Sign:
    """One bit per coordinate, 1 for +1 and 0 for -1.

    Coordinate j is bit j of the payload, in little bit order.
    """

    code: ClassVar[int] = 2
    zero_rule: Literal["random", "plus"] = "random"  # what `compress` makes of an exact zero

    def size(self, dim: int) -> int:
        return -(-dim // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return draws.sign(v, self.zero_rule)

    def encode(self, value: Tensor) -> Bytes:
        return pack_positive(value)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        check_padding(rows, dim)
        bits = np.unpackbits(rows, axis=-1, count=dim, bitorder="little").view(np.int8)
        return torch.from_numpy(2 * bits - 1)

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return vote_counter(dim)


# Byte -> its five base-3 digits, least significant first, as values -1, 0, +1.
_TRITS = ((np.arange(256)[:, None] // 3 ** np.arange(5)) % 3 - 1).astype(np.int8)


@dataclass(frozen=True)
class Trit:
    """Values in {-1, 0, +1}, five to the byte in base 3."""

    code: ClassVar[int] = 3

    def size(self, dim: int) -> int:
        return -(-dim // 5)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return draws.sign(v, "zero")

    def encode(self, value: Tensor) -> Bytes:
        clients, dim = value.shape
        digits = np.ones((clients, 5 * self.size(dim)), np.uint8)  # padding is the digit of 0
        digits[:, :dim] = value.cpu().numpy() + 1
        packed: Bytes = digits[:, 4::5].copy()
        for place in (3, 2, 1, 0):
            packed *= 3
            packed += digits[:, place::5]
        return packed

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        if (rows > 242).any():
            raise MessageError("a byte above 242 does not encode five ternary digits")
        trits = _TRITS[rows].reshape(len(rows), -1)
        if trits[:, dim:].any():
            raise MessageError("padding digits are set")
        return torch.from_numpy(trits[:, :dim])

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return TritCounter(self, dim)


@dataclass(frozen=True)
class Integers(Averaged):
    """Integers -bound, -bound + step, ..., bound, each in ceil(log2(values)) bits.

    The displacement by R sign steps is Integers(R); the sum of n signs is Integers(n, 2). Their
    float32 mean is exact, since float32 holds integers up to 2^24.
    """

    code: ClassVar[int] = 4
    bound: int
    step: int = 1

    @property
    def values(self) -> int:
        """How many integers there are to choose from."""
        return 2 * self.bound // self.step + 1

    @property
    def bits(self) -> int:
        """Bits of one integer."""
        return (self.values - 1).bit_length()

    def size(self, dim: int) -> int:
        return -(-dim * self.bits // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return v

    def encode(self, value: Tensor) -> Bytes:
        codes = (value.cpu().to(torch.int32).numpy() + self.bound) // self.step
        in_range = codes.min() >= 0 and codes.max() < self.values
        assert in_range, f"integers beyond {self.bound} cannot be sent"
        return pack(codes, self.bits)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        codes = unpack(rows, dim, self.bits)
        if codes.max() >= self.values:
            raise MessageError(f"a code is not that of an integer in [-{self.bound}, {self.bound}]")
        return torch.from_numpy((codes * self.step - self.bound).astype(np.float32))
