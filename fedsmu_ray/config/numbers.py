"""Bounded numbers, as types of keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

NonNegative = Annotated[float, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
