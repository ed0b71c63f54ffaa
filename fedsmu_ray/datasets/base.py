"""The base class of data sets: a frozen dataclass whose fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError

Count = Annotated[int, Field(ge=1)]  # an option that counts something

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class DatasetSource(ABC):
    """A data set, or a format that data sets come in.

    The fields of a subclass, with their types, defaults and descriptions, are the keys of
    `data.options`.
    """

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> DatasetSource:
        """The source with the given `data.options`.

        name: `data.dataset`, for messages. Raises ConfigError that lists every unknown key and
        invalid value.
        """
        hints = get_type_hints(cls, include_extras=True)
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        problems: list[str] = []
        for key, value in options.items():
            if key not in known:
                has = (
                    f"has the options {', '.join(known)}" if known else "has no options; remove it"
                )
                problems.append(f"data.options.{key}: unknown key; data.dataset = {name} {has}")
                continue
            try:
                value = tuple(value) if isinstance(value, list) else value
                values[key] = TypeAdapter(hints[key], config=_STRICT).validate_python(value)
            except ValidationError as error:
                problems += _invalid(key, error)
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    @abstractmethod
    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the data set.

        name: `data.dataset` as it is written in the configuration. root: the folder of the data (of
        an .npz file: the file). download: whether a missing data set may be downloaded. Raises
        ConfigError that says what is missing or damaged, and the cure.
        """


def _invalid(key: str, error: ValidationError) -> list[str]:
    """One line for each invalid value of option `key`, by its position if the option is a list."""
    problems = []
    for detail in error.errors():
        position = "".join(f"[{i}]" for i in detail["loc"])
        expected = detail["msg"].replace("Input should", "it must").replace("tuple", "list")
        problems.append(f"data.options.{key}{position} = {detail['input']!r}: {expected}")
    return problems
