"""Random streams that are pure functions of (seed, stream, round, client).

No stream has state, so a client task gives the same bits on whichever actor, node or attempt runs
it, and two methods with the same seed see the same initial model, partition, cohorts and batches.

The bits are those of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): word i of the stream with key k
is ``mix(k + (i + 1) * GAMMA)``, so any word can be computed without the ones before it. torch's
int64 arithmetic wraps around, so the words are the same on every device. The rare draws of the host
(partition, cohort) use NumPy's PCG64, seeded with the same tuple.
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
_WORD = (1 << 64) - 1
MIX1 = _signed(0xBF58476D1CE4E5B9)
MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * MIX1
    z = (z ^ _shift(z, 27)) * MIX2
    return z ^ _shift(z, 31)


def _mixed(z: int) -> int:
    """`_mix` of one word, which takes a hundredth of the time for a number of Python."""
    z &= _WORD
    z = (z ^ (z >> 30)) * MIX1 & _WORD
    z = (z ^ (z >> 27)) * MIX2 & _WORD
    return z ^ (z >> 31)


def keys(seed: int, stream: str, round: int, clients: Tensor) -> Tensor:
    """One int64 key per client, in the shape of `clients` (int64)."""
    key = 0
    for word in (seed, zlib.crc32(stream.encode()), round):
        key = _mixed((key ^ word) + GAMMA)
    return _mix((clients ^ _signed(key)) + GAMMA)


def words(key: Tensor, index: Tensor) -> Tensor:
    """Random int64 words: word `index` of every stream `key`; the two broadcast."""
    return _mix(key + (index + 1) * GAMMA)


def permutations(key: Tensor, epochs: int, sizes: Tensor) -> Tensor:
    """A permutation of range(sizes[c]) for every epoch and every stream c of `key` [C].

    Returns int64 [C, epochs, max(sizes)]; entry j is meaningful for j < sizes[c]. The sort key of
    sample j is word (epoch << 32) + j of the stream, so the permutations of a client do not depend
    on its group.
    """
    longest = int(sizes.max())
    sample = torch.arange(longest, device=key.device)
    epoch = torch.arange(epochs, device=key.device) << 32
    order = words(key[:, None, None], epoch[None, :, None] + sample)
    order = order.masked_fill(sample >= sizes[:, None, None], torch.iinfo(torch.int64).max)
    return torch.sort(order, dim=-1, stable=True).indices


def host_generator(seed: int, stream: str, round: int = 0) -> np.random.Generator:
    """NumPy generator for draws that belong to no client, such as the partition or a cohort."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), round])
