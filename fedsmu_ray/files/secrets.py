"""Secrets are cut out of what is written, printed or logged.

A secret is the password in a URI, a parameter whose name says so (`?password=...`), or a value of a
configuration under such a name (`token: ...`). A user name is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CUT = "***"  # stands where a secret was

_NAME = re.compile(
    r"(.*_)?(pwd|passphrase|secrets?|token|credentials?|bearer|authorization|access_?key_?id|"
    r"secret_?id|(api|access|secret|private|auth|account|signing|encryption|service)_?keys?)"
    r"|.*(passwords?|passwd|secret|apikey)"
)
# Tokens of a vocabulary, such as `pad_token`.
_VOCABULARY = re.compile(
    r"(.*_)?(pad|mask|bos|eos|sos|unk|unknown|sep|cls|class|image|start|end|stop|blank|special)_token"
)
# The password of scheme://user:password@host, up to the last @ before a query: it may itself have
# @, / and ? where it should not. What follows a port is none, as in host:5000/path@1.
_PASSWORD = re.compile(
    r"([A-Za-z][\w+.-]*://[^\s:/?#\[\]]*):(?!@|\d*(?:[/?#\s]|$))(?:[^\s?#]|[?#](?![\w.-]+=))*@"
)
_WHOLE_URI = re.compile(
    r"((?:[\w.]+=)?[A-Za-z][\w+.-]*://[^:/?#\[\]]*):(?!@|\d*(?:[/?#]|$))[^?#]* [^?#]*@"
)
# name=value, also percent-encoded inside the value of another one, and 'name': 'value'
_ASSIGNED = re.compile(
    r"""(?:%3B|%26)?(?P<name>[\w.-]+)(?P<is>\s*(?:=|%3D)\s*)"""
    r"""(?P<value>b?'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:(?!%3B|%26)[^\s&;'")\]}])+(?<![:,.]))""",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"""(['"])(?P<name>[\w.-]+)\1(?P<is>\s*:\s*)"""
    r"""(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
)


def is_secret_name(name: str) -> bool:
    """Whether a value under this name (of a dotted key: its last part) is a secret."""
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip().rsplit(".", 1)[-1])
    plain = last.replace("-", "_").lower()
    return bool(_NAME.fullmatch(plain)) and not _VOCABULARY.fullmatch(plain)


def cut(value: Any) -> Any:
    """Plain data (mappings, lists, text, numbers) without its secrets; tuples become lists."""
    if isinstance(value, Mapping):
        return {
            key: _hide(inner, str(key)) if _names_secret(str(key)) else cut(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [cut(inner) for inner in value]
    if isinstance(value, str):
        return cut_text(_WHOLE_URI.sub(rf"\1:{CUT}@", value, count=1))
    return value


def cut_text(text: str) -> str:
    """A text, such as a message, without secrets."""

    def hide(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if not is_secret_name(name) or value in ("None", "null", "''", '""'):
            return match[0]
        quote = value[0] if value[0] in "'\"" else ""
        return match[0][: match.start("value") - match.start()] + quote + CUT + quote

    text = _PASSWORD.sub(rf"\1:{CUT}@", text)
    return _QUOTED.sub(hide, _ASSIGNED.sub(hide, text))


def find_cut(value: Any, key: str = "") -> list[str]:
    """The dotted keys of plain data whose secrets have been cut out."""
    if isinstance(value, Mapping):
        parts = ((f"{key}.{name}" if key else str(name), inner) for name, inner in value.items())
        return [found for name, inner in parts for found in find_cut(inner, name)]
    if isinstance(value, (list, tuple)):
        return [key] if any(find_cut(inner, key) for inner in value) else []
    return [key] if isinstance(value, str) and is_cut(value) else []


def is_cut(text: str) -> bool:
    """Whether a secret has been cut out of this text."""
    return text == CUT or f":{CUT}@" in text or f"={CUT}" in text


def _names_secret(key: str) -> bool:
    """Whether a key, or one of several that share a value in a search space, names a secret."""
    return any(map(is_secret_name, key.split(",")))


def _hide(value: Any, name: str) -> Any:
    """What stands where a secret was: text is replaced, and so are numbers, except for tokens."""
    if isinstance(value, Mapping):
        return {key: _hide(inner, name) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hide(inner, name) for inner in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_secret = bool(value) if isinstance(value, str) else is_number and "token" not in name.lower()
    return CUT if is_secret else value
