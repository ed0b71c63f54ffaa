"""JSON that every reader accepts: Python writes NaN and Infinity, which JSON does not have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> str:
    """A value as one line of JSON, with null for NaN and infinity; what JSON lacks is text."""
    return json.dumps(without_nan(value), allow_nan=False, default=str)


def without_nan(value: Any) -> Any:
    """A copy of nested mappings and lists with None in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
