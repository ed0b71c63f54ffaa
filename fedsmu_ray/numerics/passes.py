"""Elementwise passes over all parameters, compiled where that is faster.

`is_compiled` alone decides between the compiled kernels and the same formulas in torch. Both give
the same bits, since neither fuses a product and a sum.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.numerics import streams
from fedsmu_ray.numerics.parameters import empty

# Number of parameters from which compiled passes save more time than loading the compiler takes.
COMPILED_FROM = 1 << 16


def is_compiled(dim: int, x: Tensor | None = None) -> bool:
    """Whether passes over `dim` parameters (of tensors like `x`, if given) run compiled.

    They do for models of COMPILED_FROM parameters and more, as float32 on the CPU.
    """
    fits = x is None or (x.device.type == "cpu" and x.dtype == torch.float32)
    return fits and dim >= COMPILED_FROM


def decayed_step(x: Tensor, u: Tensor, rate: float, decay: float) -> Tensor:
    """Return x + rate (u - decay x), [P]."""
    if not is_compiled(len(x), x):
        return x + rate * (u - decay * x)
    from fedsmu_ray.numerics import kernels

    new = empty(x.shape, x)
    kernels.decayed_step(x.numpy(), u.numpy(), np.float32(rate), np.float32(decay), new.numpy())
    return new


def momentum_sign(
    y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float
) -> tuple[Tensor, Tensor, bool]:
    """Compute Lion's sign and momentum of the update delta = y - x, both from the old m.

    y: [C, P]; x, m: [P] or [C, P]. Returns sign(beta1 m + (1 - beta1) delta), int8 [C, P], with 0
    for exact zeros and NaN; beta2 m + (1 - beta2) delta, [C, P]; and whether any of the signs is 0.
    """
    if not is_compiled(y.shape[-1], y):
        delta = y - x
        u = torch.sign(beta1 * m + (1 - beta1) * delta).to(torch.int8)
        return u, beta2 * m + (1 - beta2) * delta, not u.abs().amin()
    from fedsmu_ray.numerics import kernels

    b1, rest1, b2, rest2 = np.array([beta1, 1 - beta1, beta2, 1 - beta2], np.float32)
    u, new = torch.empty(y.shape, dtype=torch.int8), empty(y.shape, y)
    zeros = 0
    for row in zip(y, x.expand_as(y), m.expand_as(y), u, new, strict=True):
        y_i, x_i, m_i, u_i, new_i = (t.numpy() for t in row)
        zeros += kernels.momentum_sign(y_i, x_i, m_i, b1, rest1, b2, rest2, u_i, new_i)
    return u, new, zeros > 0


def fill_zeros(u: Tensor, key: Tensor | None) -> int:
    """Replace the zeros among the signs u, int8 [C, P], in place; returns how many there were.

    key: of each client's random stream, [C], whose word j has the coin of element j as its lowest
    bit; None for +1.
    """
    if is_compiled(u.shape[-1]) and u.device.type == "cpu":
        from fedsmu_ray.numerics import kernels

        coins = np.zeros(len(u), np.uint64) if key is None else key.numpy().view(np.uint64)
        rows = zip(u.numpy(), coins, strict=True)
        return sum(kernels.fill_zeros(row, coin, key is not None) for row, coin in rows)
    row, column = (u == 0).nonzero(as_tuple=True)
    if key is None:
        u[row, column] = 1
    else:
        coin = streams.words(key.to(u.device)[row], column) & 1
        u[row, column] = (2 * coin - 1).to(torch.int8)
    return len(row)
