"""Bounded numbers, as types of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(gt=0, le=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
# {uniform: [low, high]}: an integer drawn from low to high.
Drawn = Annotated[
    Mapping[
        Literal["uniform"],
        Annotated[list[Annotated[int, Field(gt=0, lt=2**31)]], Field(min_length=2, max_length=2)],
    ],
    Field(min_length=1),
]
