"""Data sets in one .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from fedsmu_ray.datasets import mapped
from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.mapped import RowWriter, space_needed
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
                arrays = {key: _array(file, key) for key in file.files}
        except ConfigError:
            raise
        except Exception as error:  # of many types, depending on where the file is damaged
            raise ConfigError(
                [
                    f"data.root: {root} cannot be read ({error}); it must be a complete file "
                    "written by numpy.savez, without Python objects"
                ]
            ) from error
        return from_arrays(name, arrays, f"data.root: {root}")


def _array(file: NpzFile, key: str) -> NDArray[Any]:
    """An array of the file; large samples of float64 as float32, of which only blocks are read.

    NumPy's own float64 would be in memory beside what becomes of it, three times the data.
    """
    member, archive = f"{key}.npy", file.zip
    if archive is None or member not in archive.namelist():  # not written by savez
        return np.asarray(file[key])
    with archive.open(member) as stream:
        header = _header(stream)
        if header is None:
            return np.asarray(file[key])
        shape, dtype = header
        row = prod(shape[1:]) * dtype.itemsize
        with space_needed(), np.errstate(over="ignore"), RowWriter(shape[0] * row // 2) as writer:
            left = shape[0]
            while left:
                count = min(left, max(1, mapped.BLOCK // row))
                block = np.frombuffer(stream.read(count * row), dtype)
                writer.append(block.astype(np.float32).reshape(count, *shape[1:]))
                left -= count
            return writer.array()


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and dtype of large samples of float64, in the order of C; None for other arrays."""
    if np.lib.format.read_magic(stream) != (1, 0):
        return None
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    is_large = dtype.kind == "f" and prod(shape) * 4 > mapped.LARGE
    wanted = is_large and dtype.itemsize == 8 and len(shape) > 1 and not fortran_order
    return (shape, dtype) if wanted else None
