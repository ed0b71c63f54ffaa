"""Data sets by name. Nothing is downloaded unless `data.download` says so."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.datasets import arrays, images, leaf, synthetic
from fedsmu_ray.datasets.dataset import Dataset, moments
from fedsmu_ray.errors import ConfigError


def load_dataset(config: DataConfig) -> Dataset:
    """The data set of the configuration; raises ConfigError saying what is missing or broken, and the cure."""
    if (
        config.options
        and config.dataset != "synthetic"
        and not config.dataset.startswith(("hf:", "import:"))
        and (config.dataset != "leaf" or set(config.options) != {"alphabet"})
    ):
        raise ConfigError(
            [
                f"data.options = {dict(config.options)!r}: data.dataset = {config.dataset} reads "
                f"{'only the option alphabet' if config.dataset == 'leaf' else 'no options'}; remove them"
            ]
        )
    match config.dataset:
        case "digits":
            return _digits()
        case "synthetic":
            return synthetic.load(config.options)
        case "mnist" | "fashion_mnist":
            return _mnist(config)
        case "cifar10" | "cifar100":
            return _cifar(config)
        case "image_folder":
            return images.image_folder(config.folder())
        case "tiny_imagenet":
            return images.tiny_imagenet(config.folder())
        case "shakespeare" | "leaf" as name:
            return leaf.load(name, config.folder(), **config.options)
        case "npz":
            return arrays.npz(config.folder())
        case name if name.startswith("hf:"):
            return arrays.hugging_face(config)
        case _:
            return arrays.imported(config)


def _digits() -> Dataset:
    """scikit-learn's 1,797 8x8 digits. It has no test split of its own: every fifth sample is the test set."""
    # Read beside scikit-learn's own `load_digits`, whose import takes nearly two seconds.
    package = Path(find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    test = np.arange(len(y)) % 5 == 0
    return Dataset(
        "digits", x[~test], y[~test], x[test], y[test], 10, *moments(x[~test], 16.0), scale=16.0
    )


# name: (torchvision class, mean, std); the statistics are the training sets' own
_MNIST = {
    "mnist": ("MNIST", (0.1307,), (0.3081,)),
    "fashion_mnist": ("FashionMNIST", (0.2860,), (0.3530,)),
}
# name: (torchvision class, classes, mean, std); the statistics are FedDyn's
_CIFAR = {
    "cifar10": ("CIFAR10", 10, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ("CIFAR100", 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def _mnist(config: DataConfig) -> Dataset:
    """The IDX files of torchvision's layout (<root>/<Class>/raw) or of <root> itself, plain or gzipped."""
    kind, mean, std = _MNIST[config.dataset]
    root = config.folder()
    places = [root / kind / "raw", root / kind, root]
    place = next((p for p in places if _idx_path(p, "train-images-idx3-ubyte")), None)
    if place is None and config.download:
        _download(config.dataset, kind, root)
        place = places[0]
    if place is None:
        raise _missing(
            config.dataset, f"train-images-idx3-ubyte[.gz] in {root}/{kind}/raw or {root}"
        )
    found = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        x, y = (
            _idx(place, f"{stem}-images-idx3-ubyte", 3),
            _idx(place, f"{stem}-labels-idx1-ubyte", 1),
        )
        if len(x) != len(y) or (len(y) and y.max() > 9):
            raise ConfigError(
                [
                    f"data.dataset = {config.dataset}: {place}: the {split} images and labels do not match "
                    f"({len(x)} images, {len(y)} labels, largest label {y.max()}); fetch the files again"
                ]
            )
        found[split] = x[:, None], y.astype(np.int64)
    return Dataset(config.dataset, *found["train"], *found["test"], 10, mean, std)


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _idx(folder: Path, name: str, dims: int) -> np.ndarray:
    """One IDX file (LeCun's format) of unsigned bytes with `dims` dimensions."""
    path = _idx_path(folder, name)
    if path is None:
        raise ConfigError(
            [
                f"data.root: {folder / name}[.gz] is missing beside the other files; fetch the data set again"
            ]
        )
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
                f"data.root: {path} is not a whole IDX file ({len(raw)} bytes); fetch the data set again"
            ]
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _cifar(config: DataConfig) -> Dataset:
    """torchvision's reader, which checks every file's MD5."""
    kind, classes, mean, std = _CIFAR[config.dataset]
    root = config.folder()
    from torchvision import datasets

    reader = getattr(datasets, kind)
    if config.download:
        _download(config.dataset, kind, root)
    try:
        train, test = (reader(root, train=split) for split in (True, False))
    except RuntimeError:
        raise _missing(
            config.dataset, f"{reader.base_folder} (unpacked, undamaged) in {root}"
        ) from None
    return Dataset(
        config.dataset, *_torchvision_arrays(train), *_torchvision_arrays(test), classes, mean, std
    )


def _torchvision_arrays(split) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.asarray(
        split.targets, np.int64
    )


def _download(name: str, kind: str, root: Path) -> None:
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            getattr(datasets, kind)(root, train=train, download=True)
    except (
        Exception
    ) as error:  # torchvision raises URLError, RuntimeError or OSError, depending on the step
        raise ConfigError(
            [
                f"data.dataset = {name}: the download to {root} failed ({error}); fetch it elsewhere and set "
                "data.root to its folder"
            ]
        ) from error


def _missing(name: str, wanted: str) -> ConfigError:
    return ConfigError(
        [
            f"data.dataset = {name}: not found: looked for {wanted}; set data.root (or $FEDSMU_DATA) to its "
            "folder, or allow the download with data.download=true"
        ]
    )
