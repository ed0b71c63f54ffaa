"""Data sets that come as arrays: .npz files, the user's own loader, Hugging Face `datasets`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsmu_ray import plugins
from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.datasets.dataset import Dataset, checked, moments
from fedsmu_ray.errors import ConfigError

NEEDED = ("train_x", "train_y", "test_x", "test_y")
OPTIONAL = ("classes", "clients", "symbols", "mean", "std")


def from_arrays(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
    """A data set from train_x, train_y, test_x, test_y and, if given, classes, clients, symbols, mean and std.

    uint8 [N, C, H, W] or [N, H, W] are images, normalised by the training set's moments unless mean and std are
    given; other whole numbers are tokens; floats are used as they are. Labels and `clients` are whole numbers.
    Raises ConfigError naming `where`.
    """
    missing, unknown = (
        [k for k in NEEDED if k not in arrays],
        sorted(set(arrays) - {*NEEDED, *OPTIONAL}),
    )
    if missing or unknown:
        raise ConfigError(
            [
                f"{where}: "
                + "; ".join(
                    [f"{', '.join(missing)} missing"] * bool(missing)
                    + [f"{', '.join(unknown)} unknown"] * bool(unknown)
                )
                + f" (it needs {', '.join(NEEDED)}; {', '.join(OPTIONAL)} are optional)"
            ]
        )
    (train_x, test_x), (train_y, test_y) = (
        [np.ascontiguousarray(arrays[f"{s}_{a}"]) for s in ("train", "test")] for a in "xy"
    )
    train_x, test_x = (_samples(x, where) for x in (train_x, test_x))
    train_y, test_y = (
        _whole(y, f"{where}: {s}_y") for y, s in ((train_y, "train"), (test_y, "test"))
    )
    owners = (
        _whole(np.asarray(arrays["clients"]), f"{where}: clients") if "clients" in arrays else None
    )
    classes = int(arrays["classes"]) if "classes" in arrays else 1 + int(train_y.max(initial=0))
    mean = std = symbols = None
    if train_x.dtype == np.uint8 and train_x.ndim == 4 and len(train_x):
        given = "mean" in arrays and "std" in arrays
        mean, std = (
            (_floats(arrays[k]) for k in ("mean", "std")) if given else moments(train_x, 255.0)
        )
        if not len(mean) == len(std) == train_x.shape[1] or min(std) <= 0:
            raise ConfigError(
                [
                    f"{where}: mean {mean} and std {std} need a number for each of the {train_x.shape[1]} channels"
                ]
            )
    elif train_x.dtype.kind in "iu" and train_x.size:
        symbols = int(arrays["symbols"]) if "symbols" in arrays else 1 + int(train_x.max())
    return checked(
        Dataset(
            name,
            train_x,
            train_y,
            test_x,
            test_y,
            classes,
            mean,
            std,
            clients=owners,
            symbols=symbols,
        ),
        where,
    )


def _samples(x: np.ndarray, where: str) -> np.ndarray:
    """Grey images get their channel axis; whole numbers become int64, floats float32."""
    if x.dtype == np.uint8:
        return x[:, None] if x.ndim == 3 else x
    if x.dtype.kind not in "iuf" or x.ndim < 2:
        raise ConfigError(
            [
                f"{where}: samples {list(x.shape)} of type {x.dtype}: expected [samples, ...] of uint8 (images), "
                "whole numbers (tokens) or floats"
            ]
        )
    return x.astype(np.float32 if x.dtype.kind == "f" else np.int64, copy=False)


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "iub":
        raise ConfigError([f"{where} is {values.dtype}; it must hold whole numbers"])
    return values.astype(np.int64, copy=False)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float64).reshape(-1).tolist())


def npz(path: Path) -> Dataset:
    """A file written by numpy.savez(path, train_x=..., train_y=..., test_x=..., test_y=...)."""
    if path.suffix != ".npz" or not path.is_file():
        raise ConfigError(
            [f"data.dataset = npz: {path} is not an .npz file; set data.root to the file itself"]
        )
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(
            [
                f"data.root: {path} cannot be read ({error}); it must be a whole file written by numpy.savez, "
                "without Python objects"
            ]
        ) from None
    return from_arrays("npz", arrays, f"data.root: {path}")


def imported(config: DataConfig) -> Dataset:
    """The user's own loader: function(root, **data.options) -> mapping of arrays as in `from_arrays`, or a Dataset."""
    name = config.dataset
    found = plugins.call(
        "data.dataset", name, plugins.load("data.dataset", name), config.folder(), **config.options
    )
    if isinstance(found, Dataset):
        return checked(found, f"data.dataset = {name}")
    if not isinstance(found, Mapping):
        raise ConfigError(
            [
                f"data.dataset = {name}: it returned a {type(found).__name__}; it must return a mapping with "
                f"{', '.join(NEEDED)}"
            ]
        )
    return from_arrays(name, found, f"data.dataset = {name}")


def hugging_face(config: DataConfig) -> Dataset:
    """A Hugging Face data set of images of one size, by name or local path.

    data.options: `image` and `label` columns, `train` and `test` splits, `client` column of natural clients, `config`;
    found out where left out. Nothing is downloaded unless data.download says so.
    """
    name, options = config.dataset.removeprefix("hf:"), dict(config.options)
    where = f"data.dataset = hf:{name}"
    unknown = sorted(set(options) - {"image", "label", "train", "test", "client", "config"})
    if unknown:
        raise ConfigError(
            [
                f"data.options.{unknown[0]}: unknown key; hf: data sets have image, label, train, test, "
                "client, config"
            ]
        )
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            [f"{where}: needs the package `datasets`; pip install 'fedsmu-ray[hf]'"]
        ) from None
    found = _hf_load(datasets, name, options.get("config"), config.download, where)
    held_out = next((s for s in ("test", "validation") if s in found), "test")
    splits = [options.get("train", "train"), options.get("test", held_out)]
    for split, key in zip(splits, ("train", "test")):
        if split not in found:
            raise ConfigError(
                [f"{where}: no split {split}; set data.options.{key} to one of {', '.join(found)}"]
            )
    features = found[splits[0]].features
    image = options.get("image") or next(
        (c for c, f in features.items() if isinstance(f, datasets.Image)), "image"
    )
    label = options.get("label") or next(
        (c for c, f in features.items() if isinstance(f, datasets.ClassLabel)), "label"
    )
    for column, key in (
        (image, "image"),
        (label, "label"),
        (options.get("client", label), "client"),
    ):
        if column not in features:
            raise ConfigError(
                [
                    f"{where}: no column {column}; set data.options.{key} to one of {', '.join(features)}"
                ]
            )
    arrays: dict[str, Any] = {}
    for split, key in zip(splits, ("train", "test")):
        arrays[f"{key}_x"] = _hf_images(found[split], image, f"{where}, split {split}")
        arrays[f"{key}_y"] = np.asarray(found[split].with_format("numpy")[label][:])
    if "client" in options:
        arrays["clients"] = np.unique(
            np.asarray(found[splits[0]][options["client"]][:]), return_inverse=True
        )[1]
    if isinstance(features[label], datasets.ClassLabel):
        arrays["classes"] = features[label].num_classes
    return from_arrays(f"hf:{name}", arrays, where)


def _hf_load(datasets: Any, name: str, config: str | None, download: bool, where: str) -> Any:
    """The splits: a folder written by save_to_disk, any other local folder, or (with leave to download) the hub."""
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return datasets.load_from_disk(name)
        if not Path(name).exists() and not download:
            local = datasets.DownloadConfig(local_files_only=True)
            return datasets.load_dataset(name, config, download_config=local)
        return datasets.load_dataset(name, config)
    except Exception as error:  # of half a dozen kinds, depending on what is missing
        raise ConfigError(
            [
                f"{where}: cannot be loaded ({type(error).__name__}: {error}); give a folder that exists, or allow "
                "the download with data.download=true"
            ]
        ) from error


def _hf_images(split: Any, column: str, where: str) -> np.ndarray:
    """Images of one size as uint8 [N, C, H, W]."""
    images = None
    for i, image in enumerate(split[column]):
        pixels = np.asarray(
            image if getattr(image, "mode", "L") == "L" else image.convert("RGB"), np.uint8
        )
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images is None:
            images = np.empty((len(split), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise ConfigError(
                [
                    f"{where}: image {i} is {list(pixels.shape)} [channels, height, width], the others are "
                    f"{list(images.shape[1:])}; resize all images to one size"
                ]
            )
        images[i] = pixels
    if images is None:
        raise ConfigError([f"{where}: it is empty"])
    return images
