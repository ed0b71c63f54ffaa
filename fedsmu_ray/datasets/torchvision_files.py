"""MNIST, Fashion-MNIST and CIFAR in the files that torchvision reads and downloads."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset, checked
from fedsmu_ray.errors import ConfigError

# name: (torchvision class, mean, std); the statistics are those of the training sets
_MNIST = {
    "mnist": ("MNIST", (0.1307,), (0.3081,)),
    "fashion_mnist": ("FashionMNIST", (0.2860,), (0.3530,)),
}
# name: (torchvision class, classes, mean, std); the statistics are FedDyn's
_CIFAR = {
    "cifar10": ("CIFAR10", 10, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ("CIFAR100", 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


@dataclass(frozen=True)
class MNIST(DatasetSource):
    """MNIST or Fashion-MNIST in IDX files, plain or gzipped.

    They are in <root>/<torchvision class>/raw or <root> itself.
    """

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the IDX files."""
        kind, mean, std = _MNIST[name]
        places = [root / kind / "raw", root / kind, root]
        place = next((p for p in places if _idx_path(p, "train-images-idx3-ubyte")), None)
        if place is None and download:
            _download(name, kind, root)
            place = places[0]
        if place is None:
            raise _not_found(name, f"train-images-idx3-ubyte[.gz] in {root}/{kind}/raw or {root}")
        train_x, train_y = _idx_split(name, place, "train", "train")
        test_x, test_y = _idx_split(name, place, "test", "t10k")
        return checked(
            Dataset(name, train_x, train_y, test_x, test_y, 10, mean, std), f"data.root: {place}"
        )


@dataclass(frozen=True)
class CIFAR(DatasetSource):
    """CIFAR-10 or CIFAR-100, by torchvision's reader, which checks the MD5 sum of every file."""

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the pickled batches."""
        from torchvision import datasets

        kind, classes, mean, std = _CIFAR[name]
        reader = getattr(datasets, kind)
        if download:
            _download(name, kind, root)
        try:
            splits = [reader(root, train=train) for train in (True, False)]
        except RuntimeError:
            raise _not_found(
                name, f"{reader.base_folder} (unpacked, undamaged) in {root}"
            ) from None
        (train_x, train_y), (test_x, test_y) = (_torchvision_arrays(split) for split in splits)
        return Dataset(name, train_x, train_y, test_x, test_y, classes, mean, std)


def _idx_split(
    name: str, folder: Path, split: str, stem: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 1, H, W] and labels [N] of one split."""
    x = _idx(folder, f"{stem}-images-idx3-ubyte", 3)
    y = _idx(folder, f"{stem}-labels-idx1-ubyte", 1)
    if len(x) != len(y) or (len(y) and y.max() > 9):
        raise ConfigError(
            [
                f"data.dataset = {name}: {folder}: the {split} images and labels do not match "
                f"({len(x)} images, "
                f"{len(y)} labels, largest label {y.max(initial=0)}); fetch the files again"
            ]
        )
    return x[:, None], y.astype(np.int64)


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _idx(folder: Path, name: str, dims: int) -> NDArray[np.uint8]:
    """One IDX file (LeCun's format) of unsigned bytes with `dims` dimensions."""
    path = _idx_path(folder, name)
    if path is None:
        raise ConfigError([f"data.root: {folder / name}[.gz] is missing; fetch the data set again"])
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            [f"data.root: {path} cannot be read ({error}); fetch the data set again"]
        ) from None
    header = 4 + 4 * dims
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4))
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) != header + int(np.prod(shape)):
        raise ConfigError(
            [
                f"data.root: {path} is not a complete IDX file ({len(raw)} bytes); fetch the data "
                "set again"
            ]
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _torchvision_arrays(split: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 3, H, W] and labels [N] of a torchvision data set."""
    x = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
    return x, np.asarray(split.targets, np.int64)


def _download(name: str, kind: str, root: Path) -> None:
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            getattr(datasets, kind)(root, train=train, download=True)
    except Exception as error:  # URLError, RuntimeError or OSError, depending on the step
        raise ConfigError(
            [
                f"data.dataset = {name}: the download to {root} failed ({error}); fetch it "
                "elsewhere and set data.root to its folder"
            ]
        ) from error


def _not_found(name: str, wanted: str) -> ConfigError:
    return ConfigError(
        [
            f"data.dataset = {name}: not found: looked for {wanted}; set data.root (or "
            "$FEDSMU_DATA) to its folder, or allow the download with data.download=true"
        ]
    )
