"""Lossy codecs: top-k, scaled signs, quantisers. `compress` gives the value the server will decode.

Groups are the parameter tensors (`sizes` of the setting) or the whole model (`(d,)`). With k kept coordinates out
of d in L groups, bits rounded up to whole bytes per section (values, scales, codes, indices):

    TopK        32 k + min(k ceil(log2 d), d)            HeavySign  k + 32 L + min(k ceil(log2 d), d)
    BlockSign   d + 32 L                                 Quantizer  b d, and 32 L if scaled

Which coordinates are kept is written as indices or as a mask of d bits, whichever the configuration says is smaller:
message lengths do not depend on values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.accumulators import Accumulator, OrderedMean, PerClientRows
from fedsmu_ray.wire.codecs import Codec, Draws, Float32, pack, unpack

IndexCoding = Literal["min", "index", "mask", "index32"]
Scope = Literal["tensor", "model"]
SMALLEST_SCALE = (
    2.0**-110
)  # of a quantiser: the levels of smaller ones run together where float32 loses its precision


def groups(scope: Scope, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the groups a compressor works on."""
    return sizes if scope == "tensor" else (sum(sizes),)


def largest(v: Tensor, k: int) -> Tensor:
    """Mask of the k entries of largest magnitude in every row of v [C, G]; ties go to the lowest index."""
    a = v.abs()
    threshold = torch.topk(a, k, dim=-1, sorted=True).values[:, -1:]
    above, ties = a > threshold, a == threshold
    return above | (ties & (ties.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


@dataclass(frozen=True)
class Support:
    """Which max(1, round(ratio |G|)) coordinates of every group a message holds, as indices or as a mask.

    coding: `index` takes ceil(log2 d) bits for each, `index32` 32 (as some authors count), `mask` one bit for every
    coordinate, `min` the smaller of `index` and `mask`.
    """

    sizes: tuple[int, ...]
    ratio: float
    coding: IndexCoding

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(max(1, round(self.ratio * size)) for size in self.sizes)

    @property
    def total(self) -> int:
        return sum(self.kept)

    @property
    def index_bits(self) -> int | None:
        """Bits of an index, or None for a mask."""
        dim = sum(self.sizes)
        bits = 32 if self.coding == "index32" else max(1, (dim - 1).bit_length())
        mask = self.coding == "mask" or (self.coding == "min" and self.total * bits > dim)
        return None if mask else bits

    @property
    def nbytes(self) -> int:
        bits = self.index_bits
        return -(-(self.total * bits if bits else sum(self.sizes)) // 8)

    def of(self, v: Tensor) -> Tensor:
        """Mask [C, P] of the largest entries of every group."""
        return torch.cat([largest(g, k) for g, k in zip(v.split(self.sizes, -1), self.kept)], -1)

    def positions(self, z: Tensor) -> np.ndarray:
        """Indices [C, total], ascending, of the support of z, whose groups hold at most k non-zeros."""
        return self.of(z).nonzero()[:, 1].view(len(z), -1).cpu().numpy()

    def encode(self, positions: np.ndarray) -> np.ndarray:
        if self.index_bits:
            return pack(positions.astype(np.uint32), self.index_bits)
        mask = np.zeros((len(positions), sum(self.sizes)), np.uint8)
        np.put_along_axis(mask, positions, 1, axis=-1)
        return np.packbits(mask, axis=-1, bitorder="little")

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Positions [C, total]; raises MessageError for any that no encoder writes."""
        dim = sum(self.sizes)
        if self.index_bits:
            positions = unpack(rows, self.total, self.index_bits)
        else:
            mask = unpack(rows, dim, 1)
            if (mask.sum(-1) != self.total).any():
                raise MessageError(f"the mask does not mark {self.total} coordinates")
            positions = mask.nonzero()[1].reshape(len(rows), -1)
        if (np.diff(positions, axis=-1) <= 0).any() or (positions[:, -1] >= dim).any():
            raise MessageError(f"indices are not ascending and below {dim}")
        group = np.repeat(np.arange(len(self.sizes)), self.kept)
        if (np.searchsorted(np.cumsum(self.sizes), positions, side="right") != group).any():
            raise MessageError(f"the groups do not hold {self.kept} indices")
        return positions


def _float32(values: np.ndarray) -> np.ndarray:
    """Little-endian bytes [C, 4 N] of float32 [C, N]."""
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _scales(rows: np.ndarray, count: int) -> np.ndarray:
    """float32 [C, count] scales, finite and not negative, or MessageError."""
    scales = Float32().decode(rows, count).numpy()
    if np.signbit(scales).any():
        raise MessageError("a scale is negative")
    return scales


def _written(codec: Codec, value: Tensor, rows: np.ndarray) -> Tensor:
    """`value`, decoded from `rows`, or MessageError if an encoder would have written it otherwise."""
    if not np.array_equal(codec.encode(value), rows):
        raise MessageError("no encoder writes these bytes for these values")
    return value


@dataclass(frozen=True)
class TopK:
    """The entries of largest magnitude of every group, as they are; 0 elsewhere."""

    code: ClassVar[int] = 5
    support: Support

    def size(self, dim: int) -> int:
        return 4 * self.support.total + self.support.nbytes

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return torch.where(self.support.of(v), v, 0)

    def encode(self, value: Tensor) -> np.ndarray:
        at = self.support.positions(value)
        kept = np.take_along_axis(value.cpu().numpy(), at, -1)
        return np.concatenate([_float32(kept), self.support.encode(at)], -1)

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        cut = 4 * self.support.total
        kept, at = (
            Float32().decode(rows[:, :cut], self.support.total),
            self.support.decode(rows[:, cut:]),
        )
        value = torch.zeros(len(rows), dim).scatter_(-1, torch.from_numpy(at), kept)
        return (
            value if kept.all() else _written(self, value, rows)
        )  # which of many zeros were kept is not free

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class HeavySign:
    """The signs of the entries TopK keeps, times their mean magnitude in the group; 0 elsewhere."""

    code: ClassVar[int] = 6
    support: Support
    zero_rule: Literal["random", "plus"] = "random"

    def size(self, dim: int) -> int:
        return 4 * len(self.support.sizes) + -(-self.support.total // 8) + self.support.nbytes

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        keep = self.support.of(v)
        a = torch.where(keep, v, 0).abs()
        scale = [
            g.sum(-1, keepdim=True).expand_as(g) / k
            for g, k in zip(a.split(self.support.sizes, -1), self.support.kept)
        ]
        return torch.where(keep, torch.cat(scale, -1) * draws.sign(v, self.zero_rule), 0)

    def encode(self, value: Tensor) -> np.ndarray:
        at = self.support.positions(value)
        kept = np.take_along_axis(value.cpu().numpy(), at, -1)
        first = np.cumsum((0, *self.support.kept[:-1]))
        scales = _float32(np.abs(kept[:, first]))
        return np.concatenate(
            [scales, np.packbits(kept > 0, axis=-1, bitorder="little"), self.support.encode(at)], -1
        )

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        k, count = self.support.total, len(self.support.sizes)
        scales, signs, at = np.split(rows, [4 * count, 4 * count + -(-k // 8)], axis=-1)
        scale = _scales(scales, count)
        kept = (2 * unpack(signs, k, 1) - 1) * np.repeat(scale, self.support.kept, axis=-1)
        positions = torch.from_numpy(self.support.decode(at))
        value = torch.zeros(len(rows), dim).scatter_(
            -1, positions, torch.from_numpy(kept.astype(np.float32))
        )
        return (
            value if scale.all() else _written(self, value, rows)
        )  # zeros have no sign, and no choice of place

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class BlockSign:
    """The sign of every entry times the mean magnitude of its group."""

    code: ClassVar[int] = 7
    sizes: tuple[int, ...]
    zero_rule: Literal["random", "plus"] = "random"

    def size(self, dim: int) -> int:
        return 4 * len(self.sizes) + -(-dim // 8)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        scale = [g.abs().mean(-1, keepdim=True).expand_as(g) for g in v.split(self.sizes, -1)]
        return torch.cat(scale, -1) * draws.sign(v, self.zero_rule)

    def encode(self, value: Tensor) -> np.ndarray:
        z = value.cpu().numpy()
        scales = np.abs(z[:, np.cumsum((0, *self.sizes[:-1]))])
        return np.concatenate(
            [_float32(scales), np.packbits(z > 0, axis=-1, bitorder="little")], -1
        )

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        cut = 4 * len(self.sizes)
        scales, signs = _scales(rows[:, :cut], len(self.sizes)), unpack(rows[:, cut:], dim, 1)
        value = torch.from_numpy(
            ((2 * signs - 1) * np.repeat(scales, self.sizes, axis=-1)).astype(np.float32)
        )
        return value if scales.all() else _written(self, value, rows)  # zeros have no sign

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class Quantizer:
    """b-bit codes of v / r, where r = max |v_j| over the group; decoded in units of r (`scaled`, r is sent) or of 1.

    mid-rise:  2^b levels +-1, +-3, ... over 2^b - 1, none of them 0; one bit is the sign
    mid-tread: 2^b - 1 levels 0, +-1, ... over q = 2^(b-1) - 1
    Rounding is to the nearest level, or `stochastic`: up or down such that the mean is v / r, which makes a fair coin of an
    exact zero on a mid-rise grid.
    """

    code: ClassVar[int] = 8
    sizes: tuple[int, ...]
    bits: int
    zero_level: bool = True  # mid-tread
    stochastic: bool = False
    scaled: bool = False
    zero_rule: Literal["random", "plus"] = (
        "random"  # sign of an exact zero on a mid-rise grid, nearest rounding
    )

    @property
    def top(self) -> int:
        """The largest level, as an integer: levels are odd numbers up to 2^b - 1, or integers up to q."""
        return 2 ** (self.bits - 1) - 1 if self.zero_level else 2**self.bits - 1

    def size(self, dim: int) -> int:
        return -(-dim * self.bits // 8) + (4 * len(self.sizes) if self.scaled else 0)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        r = torch.cat(
            [g.abs().amax(-1, keepdim=True).expand_as(g) for g in v.split(self.sizes, -1)], -1
        )
        if self.scaled:
            r = torch.where(r < SMALLEST_SCALE, 0, r)
        a = torch.where(r > 0, v.abs() / r, 0)
        if self.zero_level:
            # A draw just below 1 may be rounded up to it, hence the clamp.
            level = torch.floor(
                self.top * a + (draws.uniform(v) if self.stochastic else 0.5)
            ).clamp(max=self.top)
            z = torch.sign(v) * (level / self.top)
        elif self.stochastic:
            step = torch.floor((torch.sign(v) * a + 1) / 2 * self.top + draws.uniform(v)).clamp(
                max=self.top
            )
            z = (2 * step - self.top) / self.top
        else:
            half = 2 ** (self.bits - 1)
            level = 2 * torch.floor(a * half).clamp(max=half - 1) + 1
            z = draws.sign(v, self.zero_rule) * (level / self.top)
        return r * z if self.scaled else z

    def encode(self, value: Tensor) -> np.ndarray:
        z = value.cpu().numpy()
        scales = np.empty((len(z), 0), np.uint8)
        if self.scaled:
            starts = np.cumsum((0, *self.sizes[:-1]))
            r = np.maximum.reduceat(np.abs(z), starts, axis=-1)
            scales = _float32(r)
            r = np.repeat(r, self.sizes, axis=-1)
            z = np.divide(z, r, out=np.zeros_like(z), where=r > 0)
        level = np.rint(z * self.top).astype(np.int32)
        codes = level + self.top if self.zero_level else (level + self.top) // 2
        return np.concatenate(
            [scales, pack(codes.astype(np.uint8 if self.bits <= 8 else np.uint32), self.bits)], -1
        )

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        cut = 4 * len(self.sizes) if self.scaled else 0
        codes = unpack(rows[:, cut:], dim, self.bits)
        level = codes - self.top if self.zero_level else 2 * codes - self.top
        if level.max() > self.top:
            raise MessageError("a code stands for no level")
        # In torch, as in `compress`, so that both round the quotient and the product alike.
        z = torch.from_numpy(level).float() / self.top
        if not self.scaled:
            return z
        scales = _scales(rows[:, :cut], len(self.sizes))
        z *= torch.from_numpy(np.repeat(scales, self.sizes, axis=-1))
        # The scale is the largest magnitude, so every group has an entry at the top level.
        peaks = np.maximum.reduceat(np.abs(level), np.cumsum((0, *self.sizes[:-1])), axis=-1)
        return (
            z
            if (peaks == self.top).all() and (scales >= SMALLEST_SCALE).all()
            else _written(self, z, rows)
        )

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return OrderedMean(self, dim, uniformity)


@dataclass(frozen=True)
class PerClient:
    """A codec whose values reach the server's step one by one, [n, P] in cohort order, instead of their mean."""

    codec: Codec

    @property
    def code(self) -> int:
        return self.codec.code

    def size(self, dim: int) -> int:
        return self.codec.size(dim)

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        return self.codec.compress(v, draws)

    def encode(self, value: Tensor) -> np.ndarray:
        return self.codec.encode(value)

    def decode(self, rows: np.ndarray, dim: int) -> Tensor:
        return self.codec.decode(rows, dim)

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        return PerClientRows(self.codec, dim, uniformity)


def error_feedback(name: str, sizes: tuple[int, ...], ratio: float, coding: IndexCoding):
    """The compressor called `name`, over groups of these sizes: one for a method that corrects its error later."""
    support = Support(sizes, ratio, coding)
    return {
        "topk": TopK(support),
        "sign": BlockSign(sizes),
        "heavy_sign": HeavySign(support),
        "none": Float32(),
    }[name]
