"""Configurations as plain data, before they are checked against the sections: YAML files, overrides, dotted keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedsmu_ray.errors import ConfigError

MOST_BYTES = 200_000  # of a configuration file
DEEPEST = 20  # sections in sections
LONGEST = 120  # characters of a value in a message
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with three repairs: 1e-3 is a number, a key given twice is an error, and so are aliases, with which a short
    file stands for an endless one."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases (*name) are not read; write the value again",
                self.peek_event().start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, "expected a mapping", node.start_mark
            )
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict, set)):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_SCIENTIFIC = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError([f"{where}: not valid YAML: nested too deeply"]) from None
    except (
        Exception
    ) as error:  # PyYAML's constructors raise all kinds of errors for values such as `!!int ''`
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError([f"{where}{line}: not valid YAML: {what}"]) from None


def read(path: str | Path) -> dict[str, Any]:
    """The nested mapping of a YAML file; raises ConfigError when there is none."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"{str(path)[:LONGEST]}: cannot be read: {getattr(error, 'strerror', None) or error}"]
        ) from None
    if len(raw) > MOST_BYTES:
        raise ConfigError([f"{path}: a configuration of more than {MOST_BYTES:,} bytes is none"])
    plain = _yaml(text, str(path))
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigError([f"{path}: expected a mapping of sections, found {type(plain).__name__}"])
    return plain


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """['local.lr=0.1', ...] -> {'local.lr': 0.1}; values are YAML."""
    overrides, problems = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            problems.append(f"{shown(argument)}: expected key=value, as in local.lr=0.1")
            continue
        try:
            overrides[key.strip()] = _yaml(value, shown(argument))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return overrides


def apply(plain: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested mapping with dotted keys set.

    Setting `algorithm.name` to another method drops the section's other fields (but `profile`), which belong to
    the method that was named before. Raises ConfigError for what is no plain value (see `foreign`).
    """
    problems = foreign(plain) + foreign(overrides)
    if problems:
        raise ConfigError(problems)
    out = copied(plain)
    name = overrides.get("algorithm.name")
    algorithm = out.get("algorithm")
    if name is not None and isinstance(algorithm, dict) and algorithm.get("name", "fedsmu") != name:
        out["algorithm"] = {k: v for k, v in algorithm.items() if k == "profile"}
    for dotted, value in overrides.items():
        *path, last = _split(dotted)
        at = out
        for part in path:
            if not isinstance(at.get(part), dict):
                at[part] = {}
            at = at[part]
        at[last] = copied(value)
    return out


def _split(dotted: str) -> list[str]:
    """Parts of a dotted key; below tune.space the rest is one part, itself a dotted key."""
    if dotted.startswith("tune.space."):
        return ["tune", "space", dotted.removeprefix("tune.space.")]
    return dotted.split(".")


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    out: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            out.update(flatten(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def shown(value: Any) -> str:
    """A value for a message: on one line, and not too long."""
    try:
        text = repr(value if not isinstance(value, str) else value[:LONGEST])
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= LONGEST + 2 else f"{text[:LONGEST]}..."


def foreign(value: Any, key: str = "", depth: int = 0) -> list[str]:
    """What is no part of any configuration, by its key: values that YAML and JSON cannot both hold (dates, sets, infinity),
    keys that are not text, control characters, endless numbers and endless nesting."""
    where = key[:LONGEST] or "the configuration"
    if depth > DEEPEST:
        return [f"{where}: nested more than {DEEPEST} deep"]
    if isinstance(value, Mapping):
        wrong = [
            f"{where}: the key {shown(k)} must be text without control characters"
            for k in value
            if not isinstance(k, str) or _UNPRINTABLE.search(k)
        ]
        return wrong or [
            p for k, v in value.items() for p in foreign(v, f"{key}.{k}" if key else k, depth + 1)
        ]
    if isinstance(value, (list, tuple)):
        return [p for v in value for p in foreign(v, key, depth + 1)]
    if isinstance(value, str):
        return (
            [f"{where} = {shown(value)}: control characters cannot be used"]
            if _UNPRINTABLE.search(value)
            else []
        )
    if isinstance(value, int) and abs(value) >= 2**63:
        return [f"{where} = {shown(value)}: must have fewer digits"]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{where} = {value!r}: must be a finite number"]
    return (
        []
        if value is None or isinstance(value, (bool, int, float))
        else [
            f"{where} = {shown(value)}: must be text, a number, true, false, null, a list or a mapping"
        ]
    )


def copied(value: Any) -> Any:
    """A deep copy as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, (list, tuple)) else value
