"""Which coordinates a sparse message holds, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire.base import Bytes
from fedsmu_ray.wire.packing import pack, unpack

IndexCoding = Literal["min", "index", "mask", "index32"]


def largest(v: Tensor, k: int) -> Tensor:
    """Mask of the k entries of largest magnitude in every row of v [C, B].

    Of equal magnitudes, those with the lowest indices are taken.
    """
    a = v.abs()
    threshold = torch.topk(a, k, dim=-1, sorted=True).values[:, -1:]
    above, ties = ~(a <= threshold), a == threshold  # NaN is kept, so that it does not go unseen
    return above | (ties & (ties.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


@dataclass(frozen=True)
class Support:
    """The max(1, round(ratio b)) kept coordinates of every block of b, as indices or as a mask.

    sizes: of the blocks. coding: `index` takes ceil(log2 d) bits per index, `index32` 32 (as some
    authors count), `mask` one bit per coordinate, `min` the smaller of `index` and `mask`.
    """

    sizes: tuple[int, ...]
    ratio: float
    coding: IndexCoding

    @property
    def dim(self) -> int:
        """d, the number of coordinates."""
        return sum(self.sizes)

    @property
    def kept(self) -> tuple[int, ...]:
        """Kept coordinates of each block."""
        return tuple(max(1, round(self.ratio * size)) for size in self.sizes)

    @property
    def total(self) -> int:
        """k, the kept coordinates of all blocks."""
        return sum(self.kept)

    @property
    def index_bits(self) -> int | None:
        """Bits of an index, or None for a mask."""
        bits = 32 if self.coding == "index32" else max(1, (self.dim - 1).bit_length())
        min_is_mask = self.total * bits > self.dim
        mask = self.coding == "mask" or (self.coding == "min" and min_is_mask)
        return None if mask else bits

    @property
    def nbytes(self) -> int:
        """Bytes of the indices or of the mask."""
        bits = self.index_bits
        return -(-(self.total * bits if bits else self.dim) // 8)

    def mask(self, v: Tensor) -> Tensor:
        """Mask [C, P] of the entries of largest magnitude in every block."""
        blocks = torch.split(v, list(self.sizes), -1)
        return torch.cat([largest(block, k) for block, k in zip(blocks, self.kept)], -1)

    def positions(self, z: Tensor) -> NDArray[np.int64]:
        """Ascending indices [C, k] of the kept coordinates of z, whose other entries are 0."""
        indices: NDArray[np.int64] = self.mask(z).nonzero()[:, 1].view(len(z), -1).cpu().numpy()
        return indices

    def encode(self, positions: NDArray[np.int64]) -> Bytes:
        """Positions [C, k] to uint8 [C, nbytes]."""
        if self.index_bits:
            return pack(positions, self.index_bits)
        mask = np.zeros((len(positions), self.dim), np.uint8)
        np.put_along_axis(mask, positions, 1, axis=-1)
        return np.packbits(mask, axis=-1, bitorder="little")

    def decode(self, rows: Bytes) -> NDArray[np.int64]:
        """uint8 [C, nbytes] to positions [C, k].

        Raises MessageError for bytes that no encoder produces.
        """
        if self.index_bits:
            positions = unpack(rows, self.total, self.index_bits)
        else:
            mask = unpack(rows, self.dim, 1)
            if (mask.sum(-1) != self.total).any():
                raise MessageError(f"the mask does not mark {self.total} coordinates")
            positions = mask.nonzero()[1].reshape(len(rows), -1)
        self._check(positions)
        return positions

    def _check(self, positions: NDArray[Any]) -> None:
        if (np.diff(positions, axis=-1) <= 0).any() or (positions[:, -1] >= self.dim).any():
            raise MessageError(f"indices are not ascending and below {self.dim}")
        block = np.repeat(np.arange(len(self.sizes)), self.kept)
        if (np.searchsorted(np.cumsum(self.sizes), positions, side="right") != block).any():
            raise MessageError(f"the blocks do not hold {self.kept} indices")
