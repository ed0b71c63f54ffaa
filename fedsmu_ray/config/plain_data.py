"""Configurations as the plain data of YAML and JSON: checks, copies, dotted keys, overrides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import secrets

MAX_DEPTH = 20  # levels of nesting
MAX_VALUE_LENGTH = 120  # characters of a value or key in a message
_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # and half characters of UTF-16


def find_unsupported_values(value: object, key: str = "", depth: int = 0) -> list[str]:
    """Problems of values that no configuration can hold, each with its key.

    Unsupported are values that YAML and JSON cannot both express (dates, sets, infinity), keys that
    are not text, control characters, integers of 64 bits and more, and nesting of more than
    MAX_DEPTH levels.
    """
    where = key[:MAX_VALUE_LENGTH] or "the configuration"
    if depth > MAX_DEPTH:
        return [f"{where}: nested more than {MAX_DEPTH} deep"]
    if isinstance(value, Mapping):
        return _unsupported_keys(value, where) or [
            problem
            for name, inner in value.items()
            for problem in find_unsupported_values(
                inner, f"{key}.{name}" if key else name, depth + 1
            )
        ]
    if isinstance(value, (list, tuple)):
        return [p for inner in value for p in find_unsupported_values(inner, key, depth + 1)]
    problem = _unsupported_scalar(value)
    return [secrets.cut_text(f"{where} = {format_value(value)}: {problem}")] if problem else []


def _unsupported_keys(mapping: Mapping[Any, Any], where: str) -> list[str]:
    return [
        f"{where}: the key {format_value(key)} must be text without control characters"
        for key in mapping
        if not isinstance(key, str) or _CONTROL_CHARACTERS.search(key)
    ]


def _unsupported_scalar(value: object) -> str | None:
    if isinstance(value, str):
        return "control characters cannot be used" if _CONTROL_CHARACTERS.search(value) else None
    if isinstance(value, int):
        return "must have fewer digits" if abs(value) >= 2**63 else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "must be a finite number"
    if value is None:
        return None
    return "must be text, a number, true, false, null, a list or a mapping"


def format_value(value: object) -> str:
    """A value for a message: on one line, of limited length, and without secrets."""
    value = secrets.cut(value) if isinstance(value, (str, Mapping)) else value
    try:
        text = repr(value[:MAX_VALUE_LENGTH] if isinstance(value, str) else value)
    except ValueError:  # an integer of thousands of digits
        return "an integer too long to show"
    return text if len(text) <= MAX_VALUE_LENGTH + 2 else f"{text[:MAX_VALUE_LENGTH]}..."


def deep_copy(value: Any) -> Any:
    """A deep copy as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: deep_copy(inner) for key, inner in value.items()}
    return [deep_copy(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def flatten_keys(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one with dotted keys.

    Raises ConfigError for a key that is given twice, nested and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{prefix}{key}"
        inner = flatten_keys(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
        if twice := [each for each in inner if each in flat]:
            raise ConfigError([f"{each}: given twice, nested and dotted" for each in twice])
        flat.update(inner)
    return flat


def apply_overrides(plain: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested mapping with dotted keys set.

    Setting `algorithm.name` to another method drops the section's other keys (except `profile`),
    because they are options of the previous method. Raises ConfigError for unsupported values (see
    `find_unsupported_values`).
    """
    problems = find_unsupported_values(plain) + find_unsupported_values(overrides)
    if problems:
        raise ConfigError(problems)
    result: dict[str, Any] = deep_copy(plain)
    method = overrides.get("algorithm.name")
    section = result.get("algorithm")
    if method is not None and isinstance(section, dict) and section.get("name", "fedsmu") != method:
        result["algorithm"] = {k: v for k, v in section.items() if k == "profile"}
    for dotted, value in overrides.items():
        _set(result, _split(dotted), deep_copy(value))
    return result


def _set(plain: dict[str, Any], path: list[str], value: object) -> None:
    *sections, last = path
    for name in sections:
        if not isinstance(plain.get(name), dict):
            plain[name] = {}
        plain = plain[name]
    plain[last] = value


def _split(dotted: str) -> list[str]:
    """Parts of a dotted key; what follows tune.space is one part, itself a dotted key."""
    if dotted.startswith("tune.space."):
        return ["tune", "space", dotted.removeprefix("tune.space.")]
    return dotted.split(".")
