"""The protocols of the wire format: codecs, and accumulators of what was received.

A codec encodes the rows of a [C, P] tensor (one row per client) into uint8 [C, size(P)]; decoding
is the exact inverse on the values it can carry. `compress` turns any tensor into such values: they
are what the server will decode, and so what a client's residuals and shifts are computed from.
Every codec names the accumulator that turns received rows into the mean the server works on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

ZeroRule = Literal["random", "plus", "zero"]  # the sign of an exact zero: a fair coin, +1, or 0
Bytes = NDArray[np.uint8]  # encoded rows, [C, bytes]
Weights = Sequence[int] | None  # one of each row, at least 1; None: all 1


class Draws(Protocol):
    """The randomness of a group of clients: a pure function of (seed, round, client)."""

    def sign(self, v: Tensor, zero_rule: ZeroRule) -> Tensor:
        """Signs of v [C, P], int8, with exact zeros by `zero_rule`."""
        ...

    def uniform(self, v: Tensor) -> Tensor:
        """One draw from [0, 1) for every element of v [C, P], in v's dtype."""
        ...


class Accumulator(Protocol):
    """Adds up the encoded rows of several clients."""

    def decode(self, rows: Bytes) -> Any:
        """Check rows [C, size]; return them in the form that `add` takes. Raises MessageError."""
        ...

    def add(self, position: int, values: Any, weights: Weights = None) -> None:
        """Add the C rows of `decode`'s result, at cohort positions `position`, `position` + 1, ...

        Rows may be added in any order, which does not change a bit of the mean. Weights are given
        with `federation.weighting: samples` only.
        """
        ...

    def mean(self) -> Tensor:
        """Weighted mean over everything added, float32 [P].

        Of a `PerClient` codec: everything added, in cohort order, float32 [n, P].
        """
        ...

    def uniformity(self) -> float:
        """Magnitude uniformity: the mean over coordinates of Jain's index, in [1/n, 1].

        Every row counts the same, whatever its weight.
        """
        ...


class Codec(Protocol):
    """Tensors to bytes and back. Implementations are frozen dataclasses."""

    @property
    def code(self) -> int:
        """Identifies the codec on the wire, 1 to 255."""
        ...

    def size(self, dim: int) -> int:
        """Bytes of one client's payload for `dim` coordinates."""
        ...

    def compress(self, v: Tensor, draws: Draws) -> Tensor:
        """[C, P] to [C, P]: the value the receiver will decode instead of v.

        The identity on values that the codec can carry.
        """
        ...

    def encode(self, value: Tensor) -> Bytes:
        """[C, P] to uint8 [C, size(P)]."""
        ...

    def decode(self, rows: Bytes, dim: int) -> Tensor:
        """uint8 [C, size(dim)] to [C, dim].

        Raises MessageError for bytes that no encoder produces; NaN and Inf are for the receiver to
        refuse.
        """
        ...

    def accumulator(self, dim: int, uniformity: bool) -> Accumulator:
        """A fresh accumulator; `uniformity` says whether `uniformity()` will be called."""
        ...


Fields = Mapping[str, Codec]  # name of a field (at most five ASCII characters) -> its codec
