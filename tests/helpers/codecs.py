"""Shared by the tests of the wire format: codecs of every kind, with draws and values."""

from __future__ import annotations

import numpy as np
import torch

from fedsmu_ray.numerics import streams
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, Support, TopK

SIZES = (40, 1, 300, 9)
DIM = sum(SIZES)
WHOLE = (DIM,)  # a single block


class FakeDraws:
    """Draws without clients; the sign of an exact zero is +1, or 0 with the rule `zero`."""

    def sign(self, v, zero_rule):
        return (torch.sign(v) + (v == 0) * (zero_rule != "zero")).to(torch.int8)

    def uniform(self, v):
        keys = streams.keys(1, "test", 0, torch.arange(len(v)))[:, None]
        word = streams.words(keys, torch.arange(v.shape[-1]))
        return ((word >> 40) & (2**24 - 1)).to(v.dtype) / 2**24


def support(ratio, coding="min", sizes=SIZES):
    return Support(sizes, ratio, coding)


CODECS = [
    Float32(),
    Sign(),
    Trit(),
    TopK(support(0.05)),
    TopK(support(0.3)),
    TopK(support(0.05, "index32")),
    TopK(support(0.05, "mask")),
    TopK(support(1.0)),
    TopK(support(0.05, sizes=WHOLE)),
    HeavySign(support(0.05)),
    HeavySign(support(0.5)),
    HeavySign(support(0.05, sizes=WHOLE)),
    BlockSign(SIZES),
    BlockSign(WHOLE),
    *(
        Quantizer(SIZES, bits, zero, scaled=scaled)
        for bits in (2, 3, 8)
        for zero in (True, False)
        for scaled in (True, False)
    ),
    Quantizer(SIZES, 4, stochastic=True, scaled=True),
    Quantizer(SIZES, 12, stochastic=True, scaled=True),
    Quantizer(SIZES, 1, False),
]


def random_values(codec, clients, dim, seed):
    """Random values [C, P] that a dense codec can carry."""
    g = torch.Generator().manual_seed(seed)
    if isinstance(codec, Float32):
        return torch.randn(clients, dim, generator=g)
    levels = torch.tensor([-1, 1] if isinstance(codec, Sign) else [-1, 0, 1], dtype=torch.int8)
    return levels[torch.randint(len(levels), (clients, dim), generator=g)]


def overwrite(rows, at, value):
    """A copy of `rows` in which the bytes at `at` are replaced."""
    rows = rows.copy()
    rows[:, at] = value
    return rows


def reseal(messages):
    """Give altered messages valid checksums, so that only the codec can refuse them."""
    for row in messages:
        row[message.CHECK] = np.array([message.checksum(row)], "<u4").view(np.uint8)
    return messages
