"""Data sets by name. Nothing is downloaded unless `data.download` allows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray import plugins
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.diabetes import Diabetes
from fedsmu_ray.datasets.digits import Digits
from fedsmu_ray.datasets.hugging_face import HuggingFace
from fedsmu_ray.datasets.image_folder import ImageFolder
from fedsmu_ray.datasets.imported import Imported
from fedsmu_ray.datasets.leaf import Leaf, Shakespeare
from fedsmu_ray.datasets.mapped import in_files
from fedsmu_ray.datasets.npz import Npz
from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.datasets.tiny_imagenet import TinyImageNet
from fedsmu_ray.datasets.torchvision_files import CIFAR, MNIST
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.isolation import isolated

# Values of `data.dataset`: names, and forms that hold a name of the user's.
DATASETS: dict[str, type[DatasetSource]] = {
    "digits": Digits,
    "diabetes": Diabetes,
    "mnist": MNIST,
    "fashion_mnist": MNIST,
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "tiny_imagenet": TinyImageNet,
    "image_folder": ImageFolder,
    "shakespeare": Shakespeare,
    "leaf": Leaf,
    "npz": Npz,
    "synthetic": Synthetic,
    "hf:<name or path>": HuggingFace,
    "import:<package.module>:<function>": Imported,
}


def find(name: str) -> type[DatasetSource]:
    """The class of a data set.

    Raises ConfigError that names `data.dataset` and lists the valid names.
    """
    return plugins.lookup("data.dataset", name, DATASETS)


def load_dataset(name: str, options: Mapping[str, Any], root: Path, download: bool) -> Dataset:
    """Load a data set.

    name, options, root, download: the settings `data.dataset`, `data.options`, `data.root` and
    `data.download`. Raises ConfigError that says what is unknown, missing or damaged, and the cure.
    """
    source = find(name).from_options(name, options)
    try:
        # Trials with different seeds share the data, so what its code draws depends on no seed.
        with isolated(0):
            return in_files(source.load(name, root, download))
    except MemoryError as error:
        raise ConfigError(
            [f"data.dataset = {name}: it does not fit the memory ({error}); use fewer samples"]
        ) from error
