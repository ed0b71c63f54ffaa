"""Exact sums of encoded rows: votes as integers, which are exact in any order, and floats in client order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.numerics.parameters import LARGE

if TYPE_CHECKING:
    from fedsmu_ray.wire.codecs import Codec, Sign, Trit


class Accumulator(Protocol):
    """Adds up encoded rows of several clients."""

    def decode(self, rows: np.ndarray) -> Any:
        """Check uint8 [C, size] rows and return them in the form that `add` takes; raises MessageError."""

    def add(self, values: Any) -> None:
        """Add the C rows of `decode`'s result, in client order."""

    def mean(self) -> Tensor:
        """Mean over everything added, float32 [P]; of a `PerClientRows`, everything added, [n, P]."""

    def uniformity(self) -> float:
        """Magnitude uniformity: the mean over coordinates of Jain's index, in [1/n, 1]."""


class OrderedMean:
    """Float sum taken row by row, in the order of the calls."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim)
        self.squares = torch.zeros(dim) if uniformity else None
        self.magnitudes = torch.zeros(dim) if uniformity else None

    def decode(self, rows: np.ndarray) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, values: Tensor) -> None:
        for value in values:
            self.total += value
            if self.squares is not None:
                self.magnitudes += value.abs()
                self.squares += value.square()
        self.count += len(values)

    def mean(self) -> Tensor:
        return self.total / self.count

    def uniformity(self) -> float:
        kept = self.squares > 0  # a coordinate nobody changed is 0/0 and left out
        jain = self.magnitudes[kept].square() / (self.count * self.squares[kept])
        return float(jain.double().mean()) if len(jain) else 1.0


class PerClientRows(OrderedMean):
    """The decoded rows themselves, float32 [n, P], for a server that keeps something of every client."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        super().__init__(codec, dim, uniformity)
        self.rows: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        super().add(values)
        self.rows.append(values)

    def mean(self) -> Tensor:
        return torch.cat(self.rows)


ROWS = 28  # of bits, added in one call: a multiple of the seven that are one sum


class VoteCounter:
    """Counts +1 votes per coordinate exactly.

    For large models the messages are not unpacked: the counts are bit-sliced (bit j of `planes[k]`, laid out like a message, is
    bit k of coordinate j's count), and several rows, which wait by reference, are added at a time.
    """

    def __init__(self, codec: Sign, dim: int) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = np.zeros(dim if dim < LARGE else 0, np.int32)
        self.planes = np.zeros((0, codec.size(dim)), np.uint8)
        self.waiting: list[np.ndarray] = []

    def decode(self, rows: np.ndarray) -> np.ndarray:
        self.codec.check(rows, self.dim)
        return rows

    def add(self, rows: np.ndarray) -> None:
        self.count += len(rows)
        if self.dim < LARGE:
            self.total += np.unpackbits(rows, axis=1, count=self.dim, bitorder="little").sum(
                0, dtype=np.int32
            )
            return
        self.waiting.extend(rows)
        while len(self.waiting) >= ROWS:
            self._count()

    def _count(self) -> None:
        """Count up to ROWS waiting rows."""
        from fedsmu_ray.numerics import kernels

        size, planes = self.codec.size(self.dim), -(-self.count.bit_length() // 4) * 4
        if len(self.planes) < planes:
            self.planes = np.concatenate(
                [self.planes, np.zeros((planes - len(self.planes), size), np.uint8)]
            )
        rows, self.waiting = self.waiting[:ROWS], self.waiting[ROWS:]
        count = -(-len(rows) // 7) * 7
        rows += [np.zeros(size, np.uint8)] * (ROWS - len(rows))
        for row in rows:
            row.flags.writeable = (
                False  # of one type, as the compiler wants them; what Ray stores is so already
            )
        kernels.add_votes(self.planes, tuple(rows), count)

    def mean(self) -> Tensor:
        if self.dim < LARGE:
            return torch.from_numpy(
                (2 * self.total - self.count).astype(np.float32) / np.float32(self.count)
            )
        if self.waiting:
            self._count()
        from fedsmu_ray.numerics import kernels

        mean = np.empty(self.dim, np.float32)
        kernels.mean_of_votes(self.planes, self.count, kernels.SPREAD, mean)
        return torch.from_numpy(mean)

    def uniformity(self) -> float:
        return 1.0  # every client sends magnitude 1 in every coordinate


class TritCounter:
    """Sums of -1, 0, +1 as integers, and how many were not 0."""

    def __init__(self, codec: Trit, dim: int) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.total = torch.zeros(dim, dtype=torch.int32)
        self.nonzero = torch.zeros(dim, dtype=torch.int32)

    def decode(self, rows: np.ndarray) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, values: Tensor) -> None:
        for value in values:
            self.total += value
            self.nonzero += value.abs()
        self.count += len(values)

    def mean(self) -> Tensor:
        return self.total.float() / self.count

    def uniformity(self) -> float:
        kept = self.nonzero[
            self.nonzero > 0
        ]  # for 0/1 magnitudes Jain's index is the share of ones
        return float(kept.double().mean()) / self.count if len(kept) else 1.0
