"""Checks of single keys and values of a configuration, and their messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from fedsmu_ray import plugins
from fedsmu_ray.algorithms import registry as algorithms
from fedsmu_ray.config.compute import EXECUTORS
from fedsmu_ray.config.plain_data import MAX_VALUE_LENGTH, format_value
from fedsmu_ray.config.sampling import SAMPLING, SAMPLINGS
from fedsmu_ray.config.schema import PROFILES
from fedsmu_ray.config.task import LOSS_NAMES
from fedsmu_ray.datasets.registry import DATASETS
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.registry import MODELS

# Words of YAML for some of pydantic's errors, by type.
_CLEARER = {
    "string_type": "must be text; quote a value that YAML reads as something else",
    "tuple_type": "must be a list, as in [a, b]",
    "dict_type": "must be a mapping, as in {a: b}",
}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)

# Keys whose value is one of some names, or has one of some forms.
CHOICES: dict[str, Mapping[str, object]] = {
    "algorithm.name": algorithms.NAMES,
    "algorithm.profile": PROFILES,
    "data.dataset": DATASETS,
    "model.name": MODELS,
    "task.loss": LOSS_NAMES,
    SAMPLING: SAMPLINGS,
    "compute.executor": EXECUTORS,
}


def check_value(cls: type, name: str, key: str, value: object, problems: list[str]) -> Any:
    """Check the value of field `name` of a section's class; returns it, a list as a tuple.

    Problems are added to `problems`.
    """
    if key in CHOICES and not check_choice(key, value, problems):
        return None
    adapter = _adapter(cls, name)
    if isinstance(value, list):
        with suppress(ValidationError):
            return adapter.validate_python(value)  # of a key whose type is a list
        value = tuple(value)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problems.append(f"{key} = {format_value(value)}: {_explain(value, error.errors())}")
        return None


@cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    hint = get_type_hints(cls, include_extras=True)[name]
    try:
        return TypeAdapter(hint, config=_STRICT)
    except PydanticUserError:  # a dataclass, which cannot be given a configuration
        return TypeAdapter(hint)


def check_choice(key: str, value: object, problems: list[str]) -> bool:
    """Whether a value is one of the names in CHOICES; if not, a problem is added to `problems`."""
    try:
        plugins.lookup(key, value, CHOICES[key])
    except ConfigError as error:
        problems += error.problems
        return False
    return True


def unknown_key(key: str, known: Iterable[str], more: str = "") -> str:
    """The message for an unknown key, with the nearest valid one.

    That is the nearest by the whole key, else by its last part.
    """
    known, key = list(known), key[:MAX_VALUE_LENGTH]
    if key in known:
        nested = key.replace(".", ": {") + ": ..." + "}" * key.count(".")
        return f"{key}: sections are nested in a file; write {nested}"
    close = difflib.get_close_matches(key.lower(), known, n=1)
    last = key.rsplit(".", 1)[-1]
    close = close or [k for k in known if k.rsplit(".", 1)[-1] == last]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{key}: unknown key{meant}" + (f" ({more})" if more else "")


def _explain(value: object, errors: list[ErrorDetails]) -> str:
    """What a value must be, in pydantic's words and on one line."""
    # For a union pydantic reports every branch; the first that is not None says what is wanted.
    wanted = [error for error in errors if error["type"] != "none_required"]
    # Of names or a number: a number is told what it must be, anything else both.
    numbers = [error for error in wanted if error["type"] != "literal_error"]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    either = bool(numbers) and wanted[0]["type"] == "literal_error"
    if either and is_number:
        wanted = numbers
    message = _CLEARER.get(wanted[0]["type"], wanted[0]["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should be", "must be").replace("'", "")
    if either and not is_number:
        message += ", or a number"
    if any(error["type"] == "none_required" for error in errors):
        message += " (or null)"
    expected = wanted[0].get("ctx", {}).get("expected")
    names = re.findall(r"'([^']*)'", expected) if isinstance(expected, str) else []
    close = difflib.get_close_matches(format_value(value), names)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{message[0].lower()}{message[1:]}{meant}"
