"""The digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset, moments
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class Digits(DatasetSource):
    """1,797 images of 8x8 pixels with 16 gray levels; every fifth one is a test sample."""

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the file in the installed package of scikit-learn."""
        table = np.loadtxt(sklearn_file(name, "digits.csv.gz"), np.uint8, delimiter=",")
        x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
        test = np.arange(len(y)) % 5 == 0
        mean, std = moments(x[~test], 16.0)
        return Dataset(name, x[~test], y[~test], x[test], y[test], 10, mean, std, scale=16.0)


def sklearn_file(name: str, file: str) -> Path:
    """A data file in the installed package of scikit-learn; raises ConfigError without that.

    Files are read directly because importing scikit-learn's loaders takes nearly two seconds.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigError([f"data.dataset = {name}: needs scikit-learn; pip install scikit-learn"])
    return Path(package.origin).parent / "datasets" / "data" / file
