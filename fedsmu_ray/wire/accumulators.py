"""Accumulators of encoded rows: integer counts, exact in any order, and float sums in row order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.numerics import passes
from fedsmu_ray.wire.base import Accumulator, Bytes, Codec
from fedsmu_ray.wire.packing import check_padding


class OrderedMean:
    """Mean of floats, summed row by row in the order of the calls."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim)
        self.magnitudes = _Magnitudes(dim) if uniformity else None

    def decode(self, rows: Bytes) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, values: Tensor) -> None:
        for value in values:
            self.total += value
            if self.magnitudes is not None:
                self.magnitudes.add(value)
        self.count += len(values)

    def mean(self) -> Tensor:
        return self.total / self.count

    def uniformity(self) -> float:
        assert self.magnitudes is not None, "the accumulator was made without uniformity"
        return self.magnitudes.uniformity(self.count)


class _Magnitudes:
    """Sums of the magnitudes and squares of every coordinate, for Jain's index.

    As float64, in which no square of a float32 is too large or too small.
    """

    def __init__(self, dim: int) -> None:
        self.total, self.squares = torch.zeros(2, dim, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        value = value.double()
        self.total += value.abs()
        self.squares += value.square()

    def uniformity(self, count: int) -> float:
        kept = self.squares > 0  # a coordinate that is 0 for every client would give 0/0
        jain = self.total[kept].square() / (count * self.squares[kept])
        return float(jain.mean()) if len(jain) else 1.0


class PerClientRows(OrderedMean):
    """The decoded rows themselves, float32 [n, P], for a server that keeps a state per client."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        super().__init__(codec, dim, uniformity)
        self.rows: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        super().add(values)
        self.rows.append(values)

    def mean(self) -> Tensor:
        return torch.cat(self.rows)


def vote_counter(dim: int) -> Accumulator:
    """An exact counter of the +1 among signs of `dim` coordinates, sent as one bit each."""
    return BitSlicedVoteCounter(dim) if passes.is_compiled(dim) else VoteCounter(dim)


class _Votes:
    """What the two vote counters have in common."""

    def __init__(self, dim: int) -> None:
        self.dim, self.count = dim, 0

    def decode(self, rows: Bytes) -> Bytes:
        check_padding(rows, self.dim)
        return rows

    def uniformity(self) -> float:
        return 1.0  # every client sends magnitude 1 in every coordinate


class VoteCounter(_Votes):
    """The counts as int32 [P], from unpacked messages: for small models."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.total = np.zeros(dim, np.int32)

    def add(self, rows: Bytes) -> None:
        bits = np.unpackbits(rows, axis=1, count=self.dim, bitorder="little")
        self.total += bits.sum(0, dtype=np.int32)
        self.count += len(rows)

    def mean(self) -> Tensor:
        signs = (2 * self.total - self.count).astype(np.float32)
        return torch.from_numpy(signs / np.float32(self.count))


class BitSlicedVoteCounter(_Votes):
    """Bit-sliced counts, from messages that are not unpacked: for large models.

    Bit j of `planes[k]`, laid out like a message, is bit k of the count of coordinate j. Rows are
    kept by reference until ROWS of them can be added together.
    """

    ROWS = 28  # added in one call: a multiple of the seven that are summed first

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.planes: NDArray[np.uint8] = np.zeros((0, -(-dim // 8)), np.uint8)
        self.waiting: list[NDArray[np.uint8]] = []

    def add(self, rows: Bytes) -> None:
        self.count += len(rows)
        self.waiting.extend(rows)
        while len(self.waiting) >= self.ROWS:
            self._add_waiting()

    def mean(self) -> Tensor:
        from fedsmu_ray.numerics import kernels

        if self.waiting:
            self._add_waiting()
        mean = np.empty(self.dim, np.float32)
        kernels.mean_of_votes(self.planes, self.count, kernels.SPREAD, mean)
        return torch.from_numpy(mean)

    def _add_waiting(self) -> None:
        """Add up to ROWS waiting rows to the planes."""
        from fedsmu_ray.numerics import kernels

        self._grow()
        rows, self.waiting = self.waiting[: self.ROWS], self.waiting[self.ROWS :]
        count = -(-len(rows) // 7) * 7
        rows += [np.zeros(self.planes.shape[1], np.uint8)] * (self.ROWS - len(rows))
        for row in rows:  # the kernel takes rows of one type, and those from Ray are read-only
            row.flags.writeable = False
        kernels.add_votes(self.planes, tuple(rows), count)

    def _grow(self) -> None:
        """Add planes, in fours, until they hold the largest possible count."""
        missing = -(-self.count.bit_length() // 4) * 4 - len(self.planes)
        if missing > 0:
            more = np.zeros((missing, self.planes.shape[1]), np.uint8)
            self.planes = np.concatenate([self.planes, more])


class TritCounter:
    """Sums of -1, 0 and +1 as integers, and how many were not 0."""

    def __init__(self, codec: Codec, dim: int) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim, dtype=torch.int32)
        self.nonzero = torch.zeros(dim, dtype=torch.int32)

    def decode(self, rows: Bytes) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, values: Tensor) -> None:
        for value in values:
            self.total += value
            self.nonzero += value.abs()
        self.count += len(values)

    def mean(self) -> Tensor:
        return self.total.float() / self.count

    def uniformity(self) -> float:
        kept = self.nonzero[self.nonzero > 0]
        # For magnitudes 0 and 1, Jain's index is the share of the ones.
        return float(kept.double().mean()) / self.count if len(kept) else 1.0
