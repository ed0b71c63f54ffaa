"""YAML of configuration files and of overrides on the command line, read strictly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedsmu_ray.config.plain_data import MAX_VALUE_LENGTH, format_value
from fedsmu_ray.errors import ConfigError

MAX_FILE_BYTES = 200_000


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The nested mapping of a YAML file.

    Raises ConfigError if it cannot be read or holds something else.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError([f"{str(path)[:MAX_VALUE_LENGTH]}: cannot be read: {cause}"]) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(
            [f"{path}: a configuration file may have at most {MAX_FILE_BYTES:,} bytes"]
        )
    plain = _parse_yaml(text, str(path))
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigError([f"{path}: expected a mapping of sections, found {type(plain).__name__}"])
    return plain


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse overrides: ['local.lr=0.1', ...] gives {'local.lr': 0.1}.

    Values are YAML. Raises ConfigError that lists all problems.
    """
    overrides, problems = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            problems.append(f"{format_value(argument)}: expected key=value, as in local.lr=0.1")
            continue
        try:
            overrides[key.strip()] = _parse_yaml(value, format_value(argument))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return overrides


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1, except that 1e-3 is a number, and that a repeated key and an alias are errors.

    Aliases are errors because a short file can stand for an enormous one with them.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not supported; repeat the value"
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _error("expected a mapping", node)
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (list, dict, set)):
                raise _error("a key must be text, not a list, mapping or set", key_node)
            if key in seen:
                raise _error(f"key '{key}' is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


_SCIENTIFIC = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except RecursionError:
        raise ConfigError([f"{where}: not valid YAML: nested too deeply"]) from None
    # PyYAML's constructors raise exceptions of many types for values such as `!!int ''`.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError([f"{where}{line}: not valid YAML: {problem}"]) from None
