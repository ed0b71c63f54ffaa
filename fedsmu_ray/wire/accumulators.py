"""Accumulators of encoded rows: integer counts, exact in any order, and float sums by a tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.numerics import passes
from fedsmu_ray.wire.base import Accumulator, Bytes, Codec, Weights
from fedsmu_ray.wire.packing import check_padding

Node = tuple[int, int]  # of a `PairwiseSum`: level and index
# Weights of a round must add up to less: counts of votes are int32, and twice a count still fits.
WEIGHT_BOUND = 1 << 30


def weight_of(rows: int, weights: Weights) -> int:
    """The total weight of so many rows."""
    return rows if weights is None else sum(weights)


class PairwiseSum:
    """Sum of the rows of a cohort by a fixed binary tree over its positions.

    Node (level, i) is the sum of the rows at positions i * 2^level to (i + 1) * 2^level - 1. Which
    rows are added to which is thus given by their positions: the sum has the same bits in whatever
    order rows arrive, and if several processes add up a part of them each. Positions without a row
    count as nothing. The rounding error grows with the logarithm of the number of rows (N. Higham,
    "The accuracy of floating point summation", SIAM J. Sci. Comput. 14(4), 1993).
    """

    def __init__(self) -> None:
        self.nodes: dict[Node, Tensor] = {}  # those whose sibling is not there yet, [P] each
        self._made: set[Node] = set()  # those of them that are sums made here: they may be changed

    def add(self, position: int, rows: Tensor) -> None:
        """Add rows [C, P] at cohort positions `position`, `position` + 1, ..."""
        level, first = 0, position
        while len(rows):
            made = level > 0
            if first % 2:
                self.merge((level, first), rows[0], made)
                rows, first = rows[1:], first + 1
            if len(rows) % 2:
                self.merge((level, first + len(rows) - 1), rows[-1], made)
                rows = rows[:-1]
            rows = rows[0::2].add_(rows[1::2]) if made else rows[0::2] + rows[1::2]
            level, first = level + 1, first // 2

    def merge(self, node: Node, value: Tensor, made: bool = False) -> None:
        """Add the sum of a node, [P].

        made: whether it may be changed; a sum in place takes half the time.
        """
        level, i = node
        while (sibling := self.nodes.pop((level, i ^ 1), None)) is not None:
            if (level, i ^ 1) in self._made:
                self._made.remove((level, i ^ 1))
                value = sibling.add_(value)
            else:
                value = value.add_(sibling) if made else value + sibling
            level, i, made = level + 1, i // 2, True
        self.nodes[level, i] = value
        if made:
            self._made.add((level, i))

    def total(self) -> Tensor:
        """The sum of all rows, [P]."""
        rest = PairwiseSum()
        rest.nodes = dict(self.nodes)
        while len(rest.nodes) > 1:  # the lowest node has no sibling: its positions are all there is
            level, i = lowest = min(rest.nodes)
            rest.merge((level + 1, i // 2), rest.nodes.pop(lowest))
        (total,) = rest.nodes.values()
        return total


def node_count(position: int, count: int) -> int:
    """How many nodes hold the sum of so many rows in a row, the first at `position`."""
    nodes, first, stop = 0, position, position + count
    while first < stop:
        nodes += first % 2 + stop % 2
        first, stop = -(-first // 2), stop // 2
    return nodes


class _Floats:
    """What the accumulators of floats have in common."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        self.codec, self.dim, self.count = codec, dim, 0
        self.magnitudes = _Magnitudes() if uniformity else None

    def decode(self, rows: Bytes) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, position: int, values: Tensor, weights: Weights = None) -> None:
        if self.magnitudes is not None:
            self.magnitudes.add(position, values)
        self.count += len(values)

    def uniformity(self) -> float:
        assert self.magnitudes is not None, "the accumulator was made without uniformity"
        return self.magnitudes.uniformity(self.count)


class PairwiseMean(_Floats):
    """Mean of floats: a `PairwiseSum` of the rows times their weights, over the total weight."""

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        super().__init__(codec, dim, uniformity)
        self.sum, self.weight = PairwiseSum(), 0

    def add(self, position: int, values: Tensor, weights: Weights = None) -> None:
        super().add(position, values)
        self.weight += weight_of(len(values), weights)
        if weights is not None:
            values = values * torch.tensor(weights, dtype=values.dtype)[:, None]
        self.sum.add(position, values)

    def mean(self) -> Tensor:
        return self.sum.total() / self.weight


class PerClientRows(_Floats):
    """The decoded rows themselves, float32 [n, P], for a server that keeps a state per client.

    Weights are left to the server (`algorithms.base.Round.weights`).
    """

    def __init__(self, codec: Codec, dim: int, uniformity: bool) -> None:
        super().__init__(codec, dim, uniformity)
        self.rows: dict[int, Tensor] = {}  # by the cohort position of the first

    def add(self, position: int, values: Tensor, weights: Weights = None) -> None:
        super().add(position, values)
        self.rows[position] = values

    def mean(self) -> Tensor:
        return torch.cat([rows for _, rows in sorted(self.rows.items())])


class _Magnitudes:
    """Sums of the magnitudes and squares of every coordinate, for Jain's index.

    As float64, in which no square of a float32 is too large or too small.
    """

    def __init__(self) -> None:
        self.totals, self.squares = PairwiseSum(), PairwiseSum()

    def add(self, position: int, values: Tensor) -> None:
        for i, value in enumerate(values.double()):
            self.totals.add(position + i, value.abs()[None])
            self.squares.add(position + i, value.square()[None])

    def uniformity(self, count: int) -> float:
        total, squares = self.totals.total(), self.squares.total()
        kept = squares > 0  # a coordinate that is 0 for every client would give 0/0
        jain = total[kept].square() / (count * squares[kept])
        return float(jain.mean()) if len(jain) else 1.0


def vote_counter(dim: int) -> Accumulator:
    """An exact counter of the +1 among signs of `dim` coordinates, sent as one bit each."""
    return BitSlicedVoteCounter(dim) if passes.is_compiled(dim) else VoteCounter(dim)


class _Votes:
    """What the two vote counters have in common; their total weight is below `WEIGHT_BOUND`."""

    def __init__(self, dim: int) -> None:
        self.dim, self.weight = dim, 0

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

    def add(self, position: int, rows: Bytes, weights: Weights = None) -> None:
        bits = np.unpackbits(rows, axis=1, count=self.dim, bitorder="little")
        if weights is None:
            self.total += bits.sum(0, dtype=np.int32)
        else:
            self.total += np.array(weights, np.int32) @ bits.astype(np.int32)
        self.weight += weight_of(len(rows), weights)

    def mean(self) -> Tensor:
        signs = (2 * self.total - self.weight).astype(np.float32)
        return torch.from_numpy(signs / np.float32(self.weight))


class BitSlicedVoteCounter(_Votes):
    """Bit-sliced counts, from messages that are not unpacked: for large models.

    Bit j of `planes[k]`, laid out like a message, is bit k of the count of coordinate j: a total
    weight below 2^k takes k planes (rounded up to fours) of a bit per coordinate. A row of weight w
    is added to the planes from k on for each bit k of w. Rows are kept by reference until ROWS of
    them can be added together.
    """

    ROWS = 28  # added in one call: a multiple of the seven that are summed first

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.planes: NDArray[np.uint8] = np.zeros((0, -(-dim // 8)), np.uint8)
        self.waiting: dict[int, list[NDArray[np.uint8]]] = {}  # rows by the bit of their weight

    def add(self, position: int, rows: Bytes, weights: Weights = None) -> None:
        self.weight += weight_of(len(rows), weights)
        for bit, some in _by_bit(rows, weights):
            self.waiting.setdefault(bit, []).extend(some)
            while len(self.waiting[bit]) >= self.ROWS:
                self._add_waiting(bit)

    def mean(self) -> Tensor:
        from fedsmu_ray.numerics import kernels

        for bit, rows in self.waiting.items():
            if rows:
                self._add_waiting(bit)
        mean = np.empty(self.dim, np.float32)
        kernels.mean_of_votes(self.planes, self.weight, kernels.SPREAD, mean)
        return torch.from_numpy(mean)

    def _add_waiting(self, bit: int) -> None:
        """Add up to ROWS waiting rows to the planes from `bit` on."""
        from fedsmu_ray.numerics import kernels

        self._grow(bit)
        waiting = self.waiting[bit]
        rows, self.waiting[bit] = waiting[: self.ROWS], waiting[self.ROWS :]
        count = -(-len(rows) // 7) * 7
        rows += [np.zeros(self.planes.shape[1], np.uint8)] * (self.ROWS - len(rows))
        for row in rows:  # the kernel takes rows of one type, and those from Ray are read-only
            row.flags.writeable = False
        kernels.add_votes(self.planes[bit:], tuple(rows), count)

    def _grow(self, bit: int) -> None:
        """Add planes, in fours: for the largest possible count, and the kernel takes three."""
        needed = max(self.weight.bit_length(), bit + 3)
        missing = -(-needed // 4) * 4 - len(self.planes)
        if missing > 0:
            more = np.zeros((missing, self.planes.shape[1]), np.uint8)
            self.planes = np.concatenate([self.planes, more])


def _by_bit(rows: Bytes, weights: Weights) -> Iterator[tuple[int, Bytes | list[Bytes]]]:
    """For each bit of the weights the rows in whose weight it is set."""
    if weights is None:
        yield 0, rows
        return
    for bit in range(max(weights).bit_length()):
        if some := [row for row, weight in zip(rows, weights) if weight >> bit & 1]:
            yield bit, some


class TritCounter:
    """Sums of -1, 0 and +1 as int32 (for weights, see `WEIGHT_BOUND`), and how many were not 0."""

    def __init__(self, codec: Codec, dim: int) -> None:
        self.codec, self.dim, self.count, self.weight = codec, dim, 0, 0
        self.total = torch.zeros(dim, dtype=torch.int32)
        self.nonzero = torch.zeros(dim, dtype=torch.int32)

    def decode(self, rows: Bytes) -> Tensor:
        return self.codec.decode(rows, self.dim)

    def add(self, position: int, values: Tensor, weights: Weights = None) -> None:
        for value, weight in zip(values, weights or [1] * len(values)):
            self.total.add_(value, alpha=weight)
            self.nonzero += value.abs()
        self.count += len(values)
        self.weight += weight_of(len(values), weights)

    def mean(self) -> Tensor:
        return self.total.float() / self.weight

    def uniformity(self) -> float:
        kept = self.nonzero[self.nonzero > 0]
        # For magnitudes 0 and 1, Jain's index is the share of the ones.
        return float(kept.double().mean()) / self.count if len(kept) else 1.0
