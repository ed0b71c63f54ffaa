"""Elementwise passes and vote counts compiled by Numba, so that memory is read and written once.

Loading the compiler takes 0.3 s per process, so only `passes` and the vote counter of large models
import this module, on CPUs; everything else uses the same formulas in NumPy or torch. Fast-math is
off, so every operation is rounded by itself, as in those formulas: tests/numerics/test_passes.py
compares the bits of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fedsmu_ray.numerics import streams

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Bits = NDArray[np.uint8]  # eight coordinates per byte
Floats = NDArray[np.float32]


def compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile a function; the machine code is kept on disk for the next process where possible."""
    kernel: Callable[Parameters, Result]
    try:
        kernel = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        kernel = njit(nogil=True)(function)
    return kernel


@compiled
def momentum_sign(
    y: Floats,
    x: Floats,
    m: Floats,
    beta1: np.float32,
    rest1: np.float32,
    beta2: np.float32,
    rest2: np.float32,
    u: NDArray[np.int8],
    new: Floats,
) -> int:
    """Write sign(beta1 m + rest1 (y - x)) into u and beta2 m + rest2 (y - x) into new, all [P].

    Returns the number of zeros in u. NaN gives 0.
    """
    zeros = 0
    for i in range(len(y)):
        delta = y[i] - x[i]
        v = beta1 * m[i] + rest1 * delta
        new[i] = beta2 * m[i] + rest2 * delta
        u[i] = np.int8(v > 0) - np.int8(v < 0)
        zeros += u[i] == 0
    return zeros


GAMMA, MIX1, MIX2 = (np.uint64(w % (1 << 64)) for w in (streams.GAMMA, streams.MIX1, streams.MIX2))


@compiled
def fill_zeros(u: NDArray[np.int8], key: np.uint64, random: bool) -> int:
    """Replace the zeros in u [P] by coins from the stream of a key, or by +1; returns how many."""
    zeros = 0
    for i in range(len(u)):
        if u[i] == 0:
            zeros += 1
            z = key + np.uint64(i + 1) * GAMMA  # `streams.words`
            z = (z ^ (z >> np.uint64(30))) * MIX1
            z = (z ^ (z >> np.uint64(27))) * MIX2
            z = z ^ (z >> np.uint64(31))
            u[i] = 2 * np.int8(z & np.uint64(1)) - 1 if random else 1
    return zeros


@compiled
def decayed_step(x: Floats, u: Floats, rate: np.float32, decay: np.float32, new: Floats) -> None:
    """Write x + rate (u - decay x) into new, all [P]."""
    for i in range(len(x)):
        new[i] = x[i] + rate * (u[i] - decay * x[i])


CHUNK_BYTES = 1 << 14  # of each row, processed at a time so that they stay in the L2 cache
# Every step is cast, since Numba would widen bytes to 64-bit words, of which a vector instruction
# handles eight times fewer.
U8 = np.uint8


@compiled
def full_adder(a: np.uint8, b: np.uint8, c: np.uint8) -> tuple[np.uint8, np.uint8]:
    """Add three bits at each of eight positions; returns the ones and the twos of the sums."""
    half = U8(a ^ b)
    return U8(half ^ c), U8(U8(a & b) | U8(half & c))


@compiled
def sum_of_seven(
    a: Bits, b: Bits, c: Bits, d: Bits, e: Bits, f: Bits, g: Bits, one: Bits, two: Bits, four: Bits
) -> None:
    """Add seven rows of bits; writes the ones, twos and fours of the sums."""
    for i in range(len(one)):
        s, t = full_adder(a[i], b[i], c[i])
        s, u = full_adder(s, d[i], e[i])
        one[i], v = full_adder(s, f[i], g[i])
        two[i], four[i] = full_adder(t, u, v)


@compiled
def add_digit(plane: Bits, digit: Bits, carry: Bits) -> None:
    """Add a digit and a carry to a plane; `carry` becomes the carry to the next plane."""
    for i in range(len(plane)):
        plane[i], carry[i] = full_adder(plane[i], digit[i], carry[i])


@compiled
def add_carry(plane: Bits, carry: Bits) -> None:
    """Add a carry to a plane; `carry` becomes the carry to the next plane."""
    for i in range(len(plane)):
        up = U8(plane[i] & carry[i])
        plane[i] = U8(plane[i] ^ carry[i])
        carry[i] = up


@compiled
def add_votes(planes: Bits, rows: tuple[Bits, ...], count: int) -> None:
    """Add the first `count` rows of bits [B], a multiple of 7, to bit-sliced counts [K >= 3, B].

    Bit j of planes[k] is bit k of the number of rows whose bit j is set (carry-save adders: Warren,
    Hacker's Delight, 2nd ed., 5-1).
    """
    digits = np.empty((3, CHUNK_BYTES), np.uint8)
    for start in range(0, planes.shape[1], CHUNK_BYTES):
        stop = min(start + CHUNK_BYTES, planes.shape[1])
        width = stop - start
        one, two, four = digits[0, :width], digits[1, :width], digits[2, :width]
        for r in range(0, count, 7):
            a, b, c = rows[r][start:stop], rows[r + 1][start:stop], rows[r + 2][start:stop]
            d, e = rows[r + 3][start:stop], rows[r + 4][start:stop]
            f, g = rows[r + 5][start:stop], rows[r + 6][start:stop]
            sum_of_seven(a, b, c, d, e, f, g, one, two, four)
            add_carry(planes[0, start:stop], one)
            add_digit(planes[1, start:stop], two, one)
            add_digit(planes[2, start:stop], four, one)
            for k in range(3, len(planes)):
                add_carry(planes[k, start:stop], one)


# Byte -> a word of eight bytes, one for each of its bits. It is an argument of the kernel because
# as a global variable it made the kernel 20 % slower.
SPREAD: NDArray[np.uint64] = (
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    .view(np.uint64)[:, 0]
    .copy()
)


@compiled
def mean_of_votes(planes: Bits, count: int, spread: NDArray[np.uint64], mean: Floats) -> None:
    """Write the mean [P] of `count` signs into `mean`.

    planes: bit-sliced counts [4 K, B] of the +1. spread: SPREAD.
    """
    words = np.empty(512, np.uint64)
    digits = words.view(np.uint8)
    votes = np.empty(8 * 512, np.int32)
    for start in range(0, planes.shape[1], 512):
        stop = min(start + 512, planes.shape[1])
        out = mean[8 * start : 8 * stop]
        for k in range(0, len(planes), 4):
            a, b = planes[k, start:stop], planes[k + 1, start:stop]
            c, d = planes[k + 2, start:stop], planes[k + 3, start:stop]
            for i in range(stop - start):
                ones, twos = spread[a[i]], spread[b[i]] << 1
                fours, eights = spread[c[i]] << 2, spread[d[i]] << 3
                words[i] = ones + twos + fours + eights
            for j in range(len(out)):
                votes[j] = (votes[j] if k else 0) + (np.int32(digits[j]) << k)
        for j in range(len(out)):
            out[j] = np.float32(np.int32(2 * votes[j] - count)) / np.float32(count)
