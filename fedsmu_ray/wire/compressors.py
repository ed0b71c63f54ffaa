"""Lossy codecs: top-k, scaled signs, quantizers.

`compress` gives the value that the server will decode. Compressors work on blocks of coordinates:
each parameter tensor (`sizes` of the setting) or the whole model (`(d,)`). With k kept coordinates
out of d in L blocks, the bits are the following, rounded up to whole bytes per section (values,
scales, codes, indices):

    TopK        32 k + min(k ceil(log2 d), d)
    HeavySign   k + 32 L + min(k ceil(log2 d), d)
    BlockSign   d + 32 L
    Quantizer   b d, and 32 L if scaled

Kept coordinates are written as indices or as a mask of d bits, whichever is smaller for the
configuration, so the length of a message does not depend on its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.accumulators import PerClientRows
from fedsmu_ray.wire.base import Accumulator, Bytes, Codec, Draws
from fedsmu_ray.wire.codecs import Averaged, Float32
from fedsmu_ray.wire.packing import pack, unpack
from fedsmu_ray.wire.support import IndexCoding, Support

__all__ = [
    "BlockSign",
    "CompressorName",
    "HeavySign",
    "IndexCoding",
    "PerClient",
    "Quantizer",
    "Scope",
    "Support",
    "TopK",
    "block_sizes",
    "error_feedback",
]

Scope = Literal["tensor", "model"]
CompressorName = Literal["topk", "sign", "heavy_sign", "none"]
SignRule = Literal["random", "plus"]  # the sign of an exact zero: a fair coin, or +1
# The smallest scale of a quantizer: float32 cannot tell all levels of a smaller one apart.
SMALLEST_SCALE = 2.0**-110


def block_sizes(scope: Scope, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the blocks of a compressor, from those of the parameter tensors."""
    return sizes if scope == "tensor" else (sum(sizes),)


@dataclass(frozen=True)
class TopK(Averaged):
    """The entries of largest magnitude of every block, unchanged; 0 elsewhere."""

    code: ClassVar[int] = 5
    support: Support

    def size(self, dim: int) -> int:
        return 4 * self.support.total + self.support.nbytes

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return torch.where(self.support.mask(v), v, 0)

    def encode(self, value: Tensor) -> Bytes:
        at = self.support.positions(value)
        kept = np.take_along_axis(value.cpu().numpy(), at, -1)
        return np.concatenate([_float_bytes(kept), self.support.encode(at)], -1)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        values, indices = np.split(rows, [4 * self.support.total], axis=-1)
        kept = Float32().decode(values, self.support.total)
        at = torch.from_numpy(self.support.decode(indices))
        value = torch.zeros(len(rows), dim).scatter_(-1, at, kept)
        if not kept.all():  # the encoder decides which zeros are kept
            _check_canonical(self, value, rows)
        return value


@dataclass(frozen=True)
class HeavySign(Averaged):
    """The signs of the entries TopK keeps, times their mean magnitude in the block; 0 elsewhere."""

    code: ClassVar[int] = 6
    support: Support
    zero_rule: SignRule = "random"

    def size(self, dim: int) -> int:
        return 4 * len(self.support.sizes) + -(-self.support.total // 8) + self.support.nbytes

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        keep, sizes = self.support.mask(v), self.support.sizes
        blocks = _blocks(torch.where(keep, v, 0).abs(), sizes)
        means = (b.sum(-1, keepdim=True) / k for b, k in zip(blocks, self.support.kept))
        return torch.where(keep, _repeat(means, sizes) * draws.sign(v, self.zero_rule), 0)

    def encode(self, value: Tensor) -> Bytes:
        at = self.support.positions(value)
        kept = np.take_along_axis(value.cpu().numpy(), at, -1)
        scales = np.abs(kept[:, _starts(self.support.kept)])
        signs = np.packbits(kept > 0, axis=-1, bitorder="little")
        return np.concatenate([_float_bytes(scales), signs, self.support.encode(at)], -1)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        k, count = self.support.total, len(self.support.sizes)
        scale_rows, signs, indices = np.split(rows, [4 * count, 4 * count + -(-k // 8)], axis=-1)
        scales = _decode_scales(scale_rows, count)
        kept = (2 * unpack(signs, k, 1) - 1) * np.repeat(scales, self.support.kept, axis=-1)
        at = torch.from_numpy(self.support.decode(indices))
        value = torch.zeros(len(rows), dim)
        value.scatter_(-1, at, torch.from_numpy(kept.astype(np.float32)))
        if not scales.all():  # zeros have no sign, and the encoder decides which are kept
            _check_canonical(self, value, rows)
        return value


@dataclass(frozen=True)
class BlockSign(Averaged):
    """The sign of every entry times the mean magnitude of its block."""

    code: ClassVar[int] = 7
    sizes: tuple[int, ...]
    zero_rule: SignRule = "random"

    def size(self, dim: int) -> int:
        return 4 * len(self.sizes) + -(-dim // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        means = (block.abs().mean(-1, keepdim=True) for block in _blocks(v, self.sizes))
        return _repeat(means, self.sizes) * draws.sign(v, self.zero_rule)

    def encode(self, value: Tensor) -> Bytes:
        z = value.cpu().numpy()
        scales = np.abs(z[:, _starts(self.sizes)])
        signs = np.packbits(z > 0, axis=-1, bitorder="little")
        return np.concatenate([_float_bytes(scales), signs], -1)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        scale_rows, sign_rows = np.split(rows, [4 * len(self.sizes)], axis=-1)
        scales, bits = _decode_scales(scale_rows, len(self.sizes)), unpack(sign_rows, dim, 1)
        z = (2 * bits - 1) * np.repeat(scales, self.sizes, axis=-1)
        value = torch.from_numpy(z.astype(np.float32))
        if not scales.all():  # zeros have no sign
            _check_canonical(self, value, rows)
        return value


@dataclass(frozen=True)
class Quantizer(Averaged):
    """b-bit codes of v / r, where r = max |v_j| over the block.

    They decode in units of r, which is sent (`scaled`), or in units of 1. The grid of levels is

        mid-rise:  the 2^b levels +-1, +-3, ... over 2^b - 1, none of them 0; one bit is the sign
        mid-tread: the 2^b - 1 levels 0, +-1, ... over q = 2^(b-1) - 1          (`zero_level`)

    Rounding is to the nearest level, or `stochastic`: up or down such that the mean is v / r, which
    makes an exact zero a fair coin on a mid-rise grid. Otherwise its sign there is by `zero_rule`.
    """

    code: ClassVar[int] = 8
    sizes: tuple[int, ...]
    bits: int
    zero_level: bool = True
    stochastic: bool = False
    scaled: bool = False
    zero_rule: SignRule = "random"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"{self.bits} bits leave no level beside 0; use zero_level=False")

    @property
    def top(self) -> int:
        """The largest level as an integer: 2^b - 1 on a mid-rise grid, q on a mid-tread one."""
        return (1 << self.bits - 1) - 1 if self.zero_level else (1 << self.bits) - 1

    def size(self, dim: int) -> int:
        return -(-dim * self.bits // 8) + (4 * len(self.sizes) if self.scaled else 0)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        peaks = (block.abs().amax(-1, keepdim=True) for block in _blocks(v, self.sizes))
        r = _repeat(peaks, self.sizes)
        if self.scaled:
            r = torch.where(r < SMALLEST_SCALE, 0, r)
        magnitude = torch.where(r > 0, v.abs() / r, 0)
        z = self._levels(v, magnitude, draws) / self.top
        return r * z if self.scaled else z

    def _levels(self, v: Tensor, magnitude: Tensor, draws: Draws) -> Tensor:
        """Levels of v [C, P], as integers in v's dtype; magnitude: |v| / r."""
        if self.zero_level:
            offset = draws.uniform(v) if self.stochastic else 0.5
            return torch.sign(v) * _mid_tread(magnitude, self.top, offset)
        if self.stochastic:
            return _mid_rise_stochastic(torch.sign(v) * magnitude, self.top, draws.uniform(v))
        return draws.sign(v, self.zero_rule) * _mid_rise_nearest(magnitude, (self.top + 1) // 2)

    def encode(self, value: Tensor) -> Bytes:
        z: NDArray[Any] = value.cpu().numpy()
        scales = np.empty((len(z), 0), np.uint8)
        if self.scaled:
            r = np.maximum.reduceat(np.abs(z), _starts(self.sizes), axis=-1)
            scales = _float_bytes(r)
            r = np.repeat(r, self.sizes, axis=-1)
            z = np.divide(z, r, out=np.zeros_like(z), where=r > 0)
        level = np.rint(z * self.top).astype(np.int32)
        codes = level + self.top if self.zero_level else (level + self.top) // 2
        return np.concatenate([scales, pack(codes, self.bits)], -1)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        count = len(self.sizes) if self.scaled else 0
        scale_rows, code_rows = np.split(rows, [4 * count], axis=-1)
        codes = unpack(code_rows, dim, self.bits)
        level = codes - self.top if self.zero_level else 2 * codes - self.top
        if level.max() > self.top:
            raise MessageError("a code is not that of a level of the quantizer")
        # In torch, as in `compress`, so that both round quotient and product alike.
        z = torch.from_numpy(level).float() / self.top
        if not self.scaled:
            return z
        scales = _decode_scales(scale_rows, count)
        z *= torch.from_numpy(np.repeat(scales, self.sizes, axis=-1))
        # The scale is the largest magnitude, so every block has an entry at the top level.
        peaks = np.maximum.reduceat(np.abs(level), _starts(self.sizes), axis=-1)
        if (peaks < self.top).any() or (scales < SMALLEST_SCALE).any():
            _check_canonical(self, z, rows)
        return z


def _mid_tread(magnitude: Tensor, top: int, offset: Tensor | float) -> Tensor:
    """Round top times magnitudes in [0, 1], plus an offset in [0, 1), down to 0, 1, ..., top."""
    # An offset just below 1 may make the sum round up to the next integer, hence the clamp.
    return torch.floor(top * magnitude + offset).clamp(max=top)


def _mid_rise_nearest(magnitude: Tensor, half: int) -> Tensor:
    """Round magnitudes in [0, 1] to the nearest of the levels 1, 3, ..., 2 half - 1."""
    return 2 * torch.floor(magnitude * half).clamp(max=half - 1) + 1


def _mid_rise_stochastic(z: Tensor, top: int, draw: Tensor) -> Tensor:
    """Round z in [-1, 1] up or down, by draws from [0, 1), to -top, -top + 2, ..., top."""
    step = torch.floor((z + 1) / 2 * top + draw).clamp(max=top)
    return 2 * step - top


@dataclass(frozen=True)
class PerClient:
    """A codec whose values reach the server's step one by one instead of as their mean.

    The server gets them as [n, P], in cohort order.
    """

    codec: Codec

    @property
    def code(self) -> int:
        return self.codec.code

    def size(self, dim: int) -> int:
        return self.codec.size(dim)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return self.codec.compress(v, draws)

    def encode(self, value: Tensor) -> Bytes:
        return self.codec.encode(value)

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        return self.codec.decode(rows, dim)

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return PerClientRows(self.codec, dim, uniformity)


def error_feedback(
    name: CompressorName, sizes: tuple[int, ...], ratio: float, coding: IndexCoding
) -> Codec:
    """The compressor called `name`, on blocks of these sizes, for a method with error feedback."""
    support = Support(sizes, ratio, coding)
    compressors: dict[CompressorName, Codec] = {
        "topk": TopK(support),
        "sign": BlockSign(sizes),
        "heavy_sign": HeavySign(support),
        "none": Float32(),
    }
    return compressors[name]


def _blocks(v: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return torch.split(v, list(sizes), -1)


def _repeat(scales: Iterable[Tensor], sizes: tuple[int, ...]) -> Tensor:
    """Repeat the scale [C, 1] of each block over its coordinates: [C, P]."""
    return torch.cat([scale.expand(-1, size) for scale, size in zip(scales, sizes)], -1)


def _starts(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """The first coordinate of each block."""
    return np.cumsum((0, *sizes[:-1]))


def _float_bytes(values: NDArray[Any]) -> Bytes:
    """Little-endian bytes [C, 4 N] of float32 [C, N]."""
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _decode_scales(rows: Bytes, count: int) -> NDArray[np.float32]:
    """float32 [C, count] scales, finite and not negative, or MessageError."""
    scales: NDArray[np.float32] = Float32().decode(rows, count).numpy()
    if np.signbit(scales).any() or not np.isfinite(scales).all():
        raise MessageError("a scale is negative, NaN or Inf")
    return scales


def _check_canonical(codec: Codec, value: Tensor, rows: Bytes) -> None:
    """Raise MessageError unless the codec writes `rows` for the value decoded from them."""
    if not np.array_equal(codec.encode(value), rows):
        raise MessageError("the bytes are not the canonical encoding of their values")
