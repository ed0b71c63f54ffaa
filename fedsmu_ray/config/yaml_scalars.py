"""Unquoted values in YAML: which are numbers, true, false or null, and which are refused.

The rules are those of YAML 1.2, and digits may be grouped (1_000). Values that YAML 1.1 and 1.2, or
Python, read differently are refused, since nobody can know which was meant.
"""

from __future__ import annotations

import math
import re

# Tags of YAML
TEXT = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
BOOL = "tag:yaml.org,2002:bool"
INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
REFUSED = "tag:fedsmu_ray:refused"

_DIGITS = r"(0|[1-9][0-9]*|[1-9][0-9]{0,2}(_[0-9]{3})+)"
_DECIMAL = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_PATTERNS = {
    NULL: "|null|Null|NULL",
    BOOL: "true|True|TRUE|false|False|FALSE",
    INT: rf"[-+]?({_DIGITS}|0x[0-9a-fA-F]+|0b[01]+)",
    FLOAT: rf"{_DECIMAL}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_BOOL_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_OCTAL = re.compile("[-+]?0[0-9_]+|[-+]?0[oO][0-7_]+")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_GROUPS = re.compile(
    r"[-+]?([0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?|[0-9]*\.[0-9_]*_[0-9_]*)([eE][-+]?[0-9]+)?"
    "|[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[bB][01_]+"
)


def tag_of(text: str) -> str:
    """The YAML tag of an unquoted value: its type, or REFUSED."""
    if refusal(text):
        return REFUSED
    return next((tag for tag, form in _PATTERNS.items() if re.fullmatch(form, text)), TEXT)


def refusal(text: str) -> str | None:
    """Why an unquoted value is refused, and what to write instead; None if it is not."""
    quoted = f"'{text}' (quoted) for text"
    if text in ("~", "None"):
        home = ", ~/ for the home folder" if text == "~" else ""
        return f"write null{home}, or {quoted}"
    if text == "<<":
        return "merge keys are not supported; repeat the keys"
    if text.lower() in _BOOL_WORDS and text in (text.lower(), text.upper(), text.title()):
        word = _BOOL_WORDS[text.lower()]
        return f"is {word} in YAML 1.1 and text in YAML 1.2; write {word}, or {quoted}"
    if _OCTAL.fullmatch(text):
        return f"a number that begins with 0 is octal in YAML 1.1; write it without, or {quoted}"
    if _BASE_60.fullmatch(text):
        return f"is a number of base 60 in YAML 1.1; write it in decimal, or {quoted}"
    if _GROUPS.fullmatch(text) and not re.fullmatch(_PATTERNS[INT], text):
        return f"write the number without _ (or as in 1_000, 0xff, 0b11), or {quoted}"
    if _is_out_of_range(text):
        return f"is beyond the range of a float; write a number within it, or {quoted}"
    return None


def _is_out_of_range(text: str) -> bool:
    """Whether a float would become 0 or infinity, as 12e4567, perhaps a hash, does."""
    if re.fullmatch(_PATTERNS[INT], text) or not re.fullmatch(_DECIMAL, text):
        return False
    value, digits = float(text), re.split("[eE]", text)[0]
    return math.isinf(value) or (value == 0 and re.search("[1-9]", digits) is not None)
