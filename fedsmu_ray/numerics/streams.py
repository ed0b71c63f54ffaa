"""Random streams that are pure functions of (seed, stream, round, client).

Nothing here has state, so a client task gives the same bits on whichever actor, node or attempt runs it, and
two methods with one seed see the same initial model, split, cohorts and batches.

The bits are SplitMix64's (Steele, Lea & Flood, OOPSLA 2014): word i of a stream with key k is
``mix(k + i * GAMMA)``, which makes every word addressable. They are computed with torch's wrapping int64
arithmetic, so they are the same on every device. Rare host-side draws (partition, cohort) use NumPy's PCG64,
seeded with the same tuple.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 with the bits of the unsigned 64-bit `word`."""
    return word - (1 << 64) if word >> 63 else word


GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def keys(seed: int, stream: str, round: int, clients: Tensor) -> Tensor:
    """One int64 key per client, shape of `clients` (int64)."""
    key = torch.zeros_like(clients)
    for word in (seed, zlib.crc32(stream.encode()), round, clients):
        key = _mix((key ^ word) + GAMMA)
    return key


def words(key: Tensor, index: Tensor) -> Tensor:
    """Random int64 words: word `index` of each stream `key`; the two broadcast."""
    return _mix(key + (index + 1) * GAMMA)


def permutations(key: Tensor, epochs: int, sizes: Tensor) -> Tensor:
    """For every stream [C] and epoch, a permutation of range(sizes[c]), padded with sizes.max() - 1 or less.

    Returns int64 [C, epochs, max(sizes)]; entry j is meaningful for j < sizes[c]. Word (epoch << 32) + j of the
    stream is the sort key of sample j, so a client's permutations do not depend on whom it is grouped with.
    """
    longest = int(sizes.max())
    sample = torch.arange(longest, device=key.device)
    epoch = torch.arange(epochs, device=key.device) << 32
    order = words(key[:, None, None], epoch[None, :, None] + sample)
    order = order.masked_fill(sample >= sizes[:, None, None], torch.iinfo(torch.int64).max)
    return torch.sort(order, dim=-1, stable=True).indices


def host_generator(seed: int, stream: str, round: int = 0) -> np.random.Generator:
    """NumPy generator for draws that belong to no client: the partition, the cohort of a round."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), round])
