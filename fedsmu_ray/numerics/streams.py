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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.int64]
T = TypeVar("T", Tensor, Words)  # int64 arithmetic wraps around in both


def _signed(word: int) -> int:
    """The int64 with the bits of the unsigned 64-bit `word`."""
    return word - (1 << 64) if word >> 63 else word


GAMMA = _signed(0x9E3779B97F4A7C15)
_WORD, _LAST = (1 << 64) - 1, (1 << 63) - 1
MIX1 = _signed(0xBF58476D1CE4E5B9)
MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: T, bits: int) -> T:
    """Logical (zero-filling) right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: T) -> T:
    z = (z ^ _shift(z, 30)) * MIX1
    z = (z ^ _shift(z, 27)) * MIX2
    return z ^ _shift(z, 31)


def _mixed(z: int) -> int:
    """`_mix` of one word, which takes a hundredth of the time for a number of Python."""
    z &= _WORD
    z = (z ^ (z >> 30)) * MIX1 & _WORD
    z = (z ^ (z >> 27)) * MIX2 & _WORD
    return z ^ (z >> 31)


def keys(seed: int, stream: str, round: int, clients: T) -> T:
    """One int64 key per client, in the shape of `clients` (int64)."""
    key = 0
    for word in (seed, zlib.crc32(stream.encode()), round):
        key = _mixed((key ^ word) + GAMMA)
    return _mix((clients ^ _signed(key)) + GAMMA)


def words(key: T, index: T) -> T:
    """Random int64 words: word `index` of every stream `key`; the two broadcast."""
    return _mix(key + (index + 1) * GAMMA)


def permutations(key: Words, epochs: int, sizes: Words) -> Words:
    """A permutation of range(sizes[c]) for every epoch and every stream c of `key` [C].

    Returns int64 [C, epochs, max(sizes)]; entry j is meaningful for j < sizes[c]. The sort key of
    sample j is word (epoch << 32) + j of the stream, so the permutations of a client do not depend
    on its group.
    """
    sample = np.arange(sizes.max())
    epoch = np.arange(epochs)[:, None] << 32
    order = words(key[:, None, None], epoch + sample)
    if sizes.min() < len(sample):
        order[np.broadcast_to(sample >= sizes[:, None, None], order.shape)] = _LAST
    return order.argsort(-1, kind="stable")


def host_generator(seed: int, stream: str, round: int = 0) -> np.random.Generator:
    """NumPy generator for draws that belong to no client, such as the partition or a cohort."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), round])
