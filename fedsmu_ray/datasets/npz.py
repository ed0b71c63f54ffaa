"""Data sets in one .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class Npz(DatasetSource):
    """The file `root`, written by numpy.savez with the arrays of `from_arrays`."""

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the file `root`."""
        if root.suffix != ".npz" or not root.is_file():
            raise ConfigError(
                [
                    f"data.dataset = {name}: {root} is not an .npz file; set data.root to the file "
                    "itself"
                ]
            )
        try:
            with root.open("rb") as raw, np.load(raw) as file:
                arrays = dict(file)
        except Exception as error:  # of many types, depending on where the file is damaged
            raise ConfigError(
                [
                    f"data.root: {root} cannot be read ({error}); it must be a complete file "
                    "written by numpy.savez, without Python objects"
                ]
            ) from error
        return from_arrays(name, arrays, f"data.root: {root}")
