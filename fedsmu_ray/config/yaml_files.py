"""YAML of configuration files and of overrides on the command line, read strictly."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fedsmu_ray.config.plain_data import MAX_VALUE_LENGTH, format_value
from fedsmu_ray.config.yaml_scalars import BOOL, FLOAT, INT, REFUSED, TEXT, refusal, tag_of
from fedsmu_ray.environment import expand_path
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.remote import Place, RemotePath
from fedsmu_ray.files.secrets import is_secret_name

MAX_FILE_BYTES = 200_000
_EXAMPLE = "expected key=value, as in local.lr=0.1"
_COMMENT = re.compile(r"(^|\s)#")


def read_yaml(path: str | Place) -> dict[str, Any]:
    """The nested mapping of a YAML file.

    Raises ConfigError if it cannot be read or holds something else.
    """
    shown = str(path)[:MAX_VALUE_LENGTH] or "FILE ''"
    try:
        if isinstance(path, RemotePath):
            raw = path.read_bytes()
        else:
            with open(expand_path(str(path)), "rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = 1 + raw[: error.start].count(b"\n")
        raise ConfigError([f"{shown}, line {number}: not UTF-8; save the file as UTF-8"]) from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError([f"{shown}: cannot be read: {cause}"]) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(
            [f"{shown}: a configuration file may have at most {MAX_FILE_BYTES:,} bytes"]
        )
    return read_yaml_text(text, shown)


def read_yaml_text(text: str, shown: str) -> dict[str, Any]:
    """The nested mapping of a YAML text; shown: where it is from, for messages.

    Raises ConfigError if it holds something else.
    """
    try:
        plain = _parse_yaml(text)
    except _YAMLError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError([f"{shown}{line}: {error}"]) from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigError(
            [
                f"{shown}: expected a mapping of sections, found {type(plain).__name__}; write "
                "`key: value`, with a space"
            ]
        )
    return plain


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse overrides: ['local.lr=0.1', ...] gives {'local.lr': 0.1}.

    Values are YAML. Raises ConfigError that lists all problems; a repeated key is one.
    """
    overrides, problems = {}, []
    for argument in arguments:
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals or not key:
            is_file = argument.endswith((".yaml", ".yml"))
            cure = "a file is given once, as the first argument" if is_file else _EXAMPLE
            problems.append(f"{format_value(argument)}: {cure}")
            continue
        if key in overrides:
            problems.append(f"{key}: given more than once; leave only one of them")
        try:
            overrides[key] = _parse_override(key, value)
        except _YAMLError as error:
            if value and is_secret_name(key):
                cure = shlex.quote(f'{key}="..."')
                problems.append(f"{key}: its value is not plain text in YAML; in a shell: {cure}")
                continue
            quoted = shlex.quote(f'{key}="{value}"')
            shell = f"; in a shell: {quoted}" if refusal(value) else ""
            problems.append(f"{format_value(argument)}: {error}{shell}")
    if problems:
        raise ConfigError(problems)
    return overrides


def _parse_override(key: str, value: str) -> Any:
    if not value:
        raise _YAMLError(f"""a value is missing; write {key}=null, or '{key}=""' for empty text""")
    parsed = _parse_yaml(value)
    # A part that YAML takes for a comment would be lost without a word.
    if _COMMENT.search(value) and (parsed is None or isinstance(parsed, str) and "#" not in parsed):
        cure = shlex.quote(f'{key}="{value}"')
        raise _YAMLError(f"what follows # is a comment in YAML; if it is text, write {cure}")
    return parsed


def dump_yaml(plain: Mapping[str, Any]) -> str:
    """A configuration as YAML that `read_yaml` reads as it was."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False)


class _YAMLError(Exception):
    """A problem in YAML text; `line` counts from 1, 0 if it is unknown."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line


class _Dumper(yaml.SafeDumper):
    """Quotes all text that this or another reader of YAML would take for something else."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and (tag := tag_of(value)) != TEXT:
            return tag
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]


class _StrictLoader(yaml.SafeLoader):
    """YAML in which ambiguous values, a repeated key and an alias are errors.

    Aliases are errors because a short file can stand for an enormous one with them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.keys: list[str] = []  # of the node that is composed

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return tag_of(value)
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not supported; repeat the value"
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        if isinstance(index, yaml.ScalarNode):  # the key of a value
            self.keys.append(str(index.value))
        node = super().compose_node(parent, index)
        if node and node.tag in (REFUSED, INT, FLOAT, BOOL) and (cure := refusal(node.value)):
            where = "".join(f"{key} = " for key in [".".join(self.keys)] if key)
            raise _YAMLError(f"{where}{node.value}: {cure}", node.start_mark.line + 1)
        if isinstance(index, yaml.ScalarNode):
            self.keys.pop()
        return node

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


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_CLEARER = {
    "but found another document": "a second document begins here (---); a file holds one",
    "found character '\\t' that cannot start any token": "a tab; use spaces instead",
    "mapping values are not allowed here": "a ': ' where none can be; quote text that holds one, "
    "and begin the keys of a section in the same column",
}


def _parse_yaml(text: str) -> Any:
    """The value of YAML text; raises _YAMLError."""
    try:
        return yaml.load(text, _StrictLoader)
    except _YAMLError:
        raise
    except RecursionError:
        raise _YAMLError("not valid YAML: nested too deeply") from None
    # PyYAML's constructors raise exceptions of many types for values such as `!!int ''`.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        problem = _CLEARER.get(problem, problem)
        raise _YAMLError(f"not valid YAML: {problem}", mark.line + 1 if mark else 0) from None
