"""Passes over all parameters that every message costs, compiled by Numba so that memory is crossed once.

Only worth their start (0.3 s a process) for large models on CPUs: callers ask `vector.LARGE`, import this module then, and have
the same formula in NumPy or torch for everything else. No fast-math: every operation is rounded by itself, as there, and
tests/test_kernels.py holds both to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit


def compiled(function: Callable) -> Callable:
    """The function as machine code, kept on disk for the next process where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)


@compiled
def momentum_sign(y, x, m, beta1, rest1, beta2, rest2, u, new):
    """For float32 [P]: sign(beta1 m + rest1 (y - x)) into u, int8, and beta2 m + rest2 (y - x) into new.

    Returns how many of u are 0. NaN gives 0.
    """
    zeros = 0
    for i in range(len(y)):
        delta = y[i] - x[i]
        v = beta1 * m[i] + rest1 * delta
        new[i] = beta2 * m[i] + rest2 * delta
        u[i] = np.int8(v > 0) - np.int8(v < 0)
        zeros += u[i] == 0
    return zeros


@compiled
def decayed_step(x, u, rate, decay, new):
    """x + rate (u - decay x) into new, float32 [P]."""
    for i in range(len(x)):
        new[i] = x[i] + rate * (u[i] - decay * x[i])


BLOCK = (
    1 << 14
)  # bytes of every row that are worked on at a time: what belongs to them stays in the second cache
U8 = np.uint8  # Numba computes on 64 bits unless told at every step; bytes are eight times as many to an instruction


@compiled
def full_adder(a, b, c):
    """Bits of three rows: of their sum, the ones and the twos."""
    half = U8(a ^ b)
    return U8(half ^ c), U8(U8(a & b) | U8(half & c))


@compiled
def seven_rows(a, b, c, d, e, f, g, one, two, four):
    """Seven rows of bits -> their sum, as three."""
    for i in range(len(one)):
        s, t = full_adder(a[i], b[i], c[i])
        s, u = full_adder(s, d[i], e[i])
        one[i], v = full_adder(s, f[i], g[i])
        two[i], four[i] = full_adder(t, u, v)


@compiled
def add_digit(plane, digit, carry):
    """Add a digit and a carry to a plane; the carry becomes that to the next one."""
    for i in range(len(plane)):
        plane[i], carry[i] = full_adder(plane[i], digit[i], carry[i])


@compiled
def add_carry(plane, carry):
    for i in range(len(plane)):
        up = U8(plane[i] & carry[i])
        plane[i] = U8(plane[i] ^ carry[i])
        carry[i] = up


@compiled
def add_votes(planes, rows, count):
    """Add the first `count` (a multiple of 7) of a tuple of rows of bits, uint8 [B], to bit-sliced counts, uint8 [K >= 3, B].

    Bit j of planes[k] is bit k of how many rows have bit j (carry-save adders: Warren, Hacker's Delight, 2nd ed., 5-1).
    """
    spare = np.empty((3, BLOCK), np.uint8)
    for start in range(0, planes.shape[1], BLOCK):
        stop = min(start + BLOCK, planes.shape[1])
        one, two, four = (
            spare[0, : stop - start],
            spare[1, : stop - start],
            spare[2, : stop - start],
        )
        for r in range(0, count, 7):
            seven_rows(
                rows[r][start:stop],
                rows[r + 1][start:stop],
                rows[r + 2][start:stop],
                rows[r + 3][start:stop],
                rows[r + 4][start:stop],
                rows[r + 5][start:stop],
                rows[r + 6][start:stop],
                one,
                two,
                four,
            )
            add_carry(planes[0, start:stop], one)
            add_digit(planes[1, start:stop], two, one)
            add_digit(planes[2, start:stop], four, one)
            for k in range(3, len(planes)):
                add_carry(planes[k, start:stop], one)


# Byte -> its bits as the eight bytes of a word. Handed to the kernel: as a global of it, it made it a fifth slower.
SPREAD = (
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    .view(np.uint64)[:, 0]
    .copy()
)


@compiled
def mean_of_votes(planes, count, spread, mean):
    """The mean of `count` signs, whose +1 the bit-sliced counts, uint8 [4 K, B], say, into float32 [P]."""
    words = np.empty(512, np.uint64)
    digits = words.view(np.uint8)
    votes = np.empty(8 * 512, np.int32)
    for start in range(0, planes.shape[1], 512):
        stop = min(start + 512, planes.shape[1])
        out = mean[8 * start : 8 * stop]
        for k in range(0, len(planes), 4):
            a, b, c, d = (
                planes[k, start:stop],
                planes[k + 1, start:stop],
                planes[k + 2, start:stop],
                planes[k + 3, start:stop],
            )
            for i in range(stop - start):
                words[i] = (
                    spread[a[i]] + (spread[b[i]] << 1) + (spread[c[i]] << 2) + (spread[d[i]] << 3)
                )
            for j in range(len(out)):
                votes[j] = (votes[j] if k else 0) + (np.int32(digits[j]) << k)
        for j in range(len(out)):
            out[j] = np.float32(np.int32(2 * votes[j] - count)) / np.float32(count)
