"""Data sets of the user's own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fedsmu_ray import plugins
from fedsmu_ray.datasets.arrays import REQUIRED, from_arrays
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class Imported(DatasetSource):
    """A data set that the user's function returns.

    It is called as function(root, **data.options) and returns a mapping of arrays as in
    `from_arrays`, or a Dataset. All of `data.options` are its arguments, so none is checked here.
    """

    options: Annotated[
        Mapping[str, Any], Field(description="keyword arguments of the function, by any name")
    ] = field(default_factory=dict)

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, Any]) -> Imported:
        """The source that passes all options to the function."""
        return cls(options)

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Call the function and check what it returns."""
        function = plugins.load("data.dataset", name)
        loaded = plugins.call("data.dataset", name, function, root, **self.options)
        where = f"data.dataset = {name}"
        if isinstance(loaded, Dataset):
            given = {field.name: getattr(loaded, field.name) for field in fields(loaded)}
            del given["name"]
            if loaded.mean is None:
                del given["scale"]
            loaded = {key: value for key, value in given.items() if value is not None}
        if not isinstance(loaded, Mapping):
            raise ConfigError(
                [
                    f"{where}: it returned a {type(loaded).__name__}; it must return a mapping "
                    f"with {', '.join(REQUIRED)}"
                ]
            )
        return from_arrays(name, loaded, where)
