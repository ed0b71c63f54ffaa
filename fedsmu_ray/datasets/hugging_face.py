"""Hugging Face data sets of images."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class HuggingFace(DatasetSource):
    """Images of one size, by the name of a data set on the hub or the path of a local one."""

    image: Annotated[
        str | None, Field(description="column of the images; default: the first of type Image")
    ] = None
    label: Annotated[
        str | None, Field(description="column of the labels; default: the first of type ClassLabel")
    ] = None
    train: Annotated[str, Field(description="split of the training samples")] = "train"
    test: Annotated[
        str | None,
        Field(description="split of the test samples; default: test, else validation"),
    ] = None
    client: Annotated[
        str | None, Field(description="column of the natural clients; default: there are none")
    ] = None
    config: Annotated[
        str | None, Field(description="configuration of the data set, where it has several")
    ] = None

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read the data set; without `download` only local files are used."""
        where = f"data.dataset = {name}"
        datasets = _package(where)
        splits = _load_splits(datasets, name.removeprefix("hf:"), self.config, download, where)
        held_out = next((s for s in ("test", "validation") if s in splits), "test")
        split_of = {"train": self.train, "test": held_out if self.test is None else self.test}
        for key, split in split_of.items():
            _check_choice("split", split, splits, key, where)
        features = splits[self.train].features
        image = self.image or _first_column(features, datasets.Image) or "image"
        label = self.label or _first_column(features, datasets.ClassLabel) or "label"
        client = label if self.client is None else self.client
        for key, column in (("image", image), ("label", label), ("client", client)):
            _check_choice("column", column, features, key, where)
        arrays: dict[str, Any] = {}
        for key, split in split_of.items():
            arrays[f"{key}_x"] = _images(splits[split], image, f"{where}, split {split}")
            arrays[f"{key}_y"] = np.asarray(splits[split][label][:])
        if self.client is not None:
            clients = np.asarray(splits[self.train][self.client][:])
            arrays["clients"] = np.unique(clients, return_inverse=True)[1]
        if isinstance(features[label], datasets.ClassLabel):
            arrays["classes"] = features[label].num_classes
        return from_arrays(name, arrays, where)


def _package(where: str) -> Any:
    """The package `datasets`; raises ConfigError if it is not installed."""
    try:
        # A folder named datasets in the working directory can be imported, but has no classes.
        from datasets import ClassLabel, Image  # noqa: F401
    except ImportError:
        raise ConfigError(
            [f"{where}: needs the package `datasets`; pip install 'fedsmu-ray[hf]'"]
        ) from None
    return importlib.import_module("datasets")


def _load_splits(
    datasets: Any, path: str, config: str | None, download: bool, where: str
) -> Mapping[str, Any]:
    """The splits by name.

    They come from a folder written by save_to_disk, any other local folder, or the hub. The hub is
    contacted only if downloads are allowed; otherwise its data sets are read from the package's
    cache.
    """
    try:
        if (Path(path) / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(path)
        elif not Path(path).exists() and not download:
            local = datasets.DownloadConfig(local_files_only=True)
            loaded = datasets.load_dataset(path, config, download_config=local)
        else:
            loaded = datasets.load_dataset(path, config)
    except Exception as error:  # of several types, depending on what is missing
        raise ConfigError(
            [
                f"{where}: cannot be loaded ({type(error).__name__}: {error}); give a folder that "
                "exists, or allow the download with data.download=true"
            ]
        ) from error
    return cast(Mapping[str, Any], loaded)


def _check_choice(what: str, name: str, choices: Iterable[str], option: str, where: str) -> None:
    if name not in choices:
        raise ConfigError(
            [f"{where}: no {what} {name}; set data.options.{option} to one of {', '.join(choices)}"]
        )


def _first_column(features: Mapping[str, Any], kind: type) -> str | None:
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)


def _images(split: Any, column: str, where: str) -> NDArray[np.uint8]:
    """Images of one size as uint8 [N, C, H, W]."""
    images: NDArray[np.uint8] | None = None
    for i, image in enumerate(split[column]):
        is_gray = getattr(image, "mode", "L") == "L"
        pixels = np.asarray(image if is_gray else image.convert("RGB"), np.uint8)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images is None:
            images = np.empty((len(split), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise ConfigError(
                [
                    f"{where}: image {i} is {list(pixels.shape)} [channels, height, width], the "
                    f"others are {list(images.shape[1:])}; resize all images to one size"
                ]
            )
        images[i] = pixels
    if images is None:
        raise ConfigError([f"{where}: it is empty"])
    return images
