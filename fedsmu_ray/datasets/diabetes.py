"""The diabetes data of scikit-learn, a small regression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.digits import sklearn_file


@dataclass(frozen=True)
class Diabetes(DatasetSource):
    """442 patients with ten measurements; the target is the progression after a year.

    Efron et al., "Least Angle Regression" (Annals of Statistics 32(2), 2004). Measurements and
    target have mean 0 and standard deviation 1 in the training set; every fifth patient is a test
    sample.
    """

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the files in the installed package of scikit-learn."""
        x = np.loadtxt(sklearn_file(name, "diabetes_data_raw.csv.gz"))
        y = np.loadtxt(sklearn_file(name, "diabetes_target.csv.gz"))[:, None]
        test = np.arange(len(y)) % 5 == 0
        x, y = (((a - a[~test].mean(0)) / a[~test].std(0)).astype(np.float32) for a in (x, y))
        return Dataset(name, x[~test], y[~test], x[test], y[test], 1, targets="values")
