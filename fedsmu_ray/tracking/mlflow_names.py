"""Names and values as MLflow accepts them."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Mapping

MAX_NAME = 250  # characters of the name of a parameter, tag, metric or run
MAX_PARAM = 6000  # characters of a parameter's value
MAX_TAG = 8000
DIGEST = 12  # characters of the digest of a data set; MLflow takes 36, its own have 8
_NOT_ALLOWED = re.compile(r"[^/\w.\- :]")


def accepted_name(name: str) -> str:
    """The name, with every character that MLflow does not accept as its code: `%` is `_x25_`.

    A name depends on nothing else, so that it is the same in all runs. One that is too long ends
    with a hash of the whole.
    """
    safe = _NOT_ALLOWED.sub(_code, name)
    # MLflow does not accept names that, as a path, lead elsewhere, such as `a//b` or `../a`.
    if safe and (posixpath.normpath(safe) != safe or safe == "." or safe.startswith(("/", ".."))):
        safe = re.sub(r"/|^\.+$|^\.\.", _code, safe)
    return shortened(safe or "_", MAX_NAME)


def accepted(values: Mapping[str, str], max_length: int) -> dict[str, str]:
    """Parameters or tags whose names and values MLflow accepts, all under different names."""
    out: dict[str, str] = {}
    for name, value in values.items():
        safe = accepted_name(name)
        if safe in out:
            safe = f"{safe[: MAX_NAME - 9]}-{_hash(name)}"
        value = encodable(value)
        note = f"... (cut, {len(value):,} characters)"
        is_long = len(value) > max_length
        out[safe] = value[: max_length - len(note)] + note if is_long else value
    return out


def encodable(text: str) -> str:
    """The text with halves of UTF-16 pairs, which no store accepts, as their codes."""
    return text.encode(errors="backslashreplace").decode()


def shortened(name: str, length: int) -> str:
    """The name, or, if it is longer than `length`, its beginning and a hash."""
    return name if len(name) <= length else f"{name[: length - 9]}-{_hash(name)}"


def _code(match: re.Match[str]) -> str:
    return "".join(f"_x{ord(character):02x}_" for character in match[0])


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
