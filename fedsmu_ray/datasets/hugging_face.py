"""Hugging Face data sets of images."""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.mapped import RowWriter, space_needed
from fedsmu_ray.datasets.pixels import ignored, pixels
from fedsmu_ray.datasets.progress import SILENT, progress
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

CHUNK = 256  # images written at a time


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
        return from_arrays(name, self._arrays(name.removeprefix("hf:"), download, where), where)

    def _arrays(self, path: str, download: bool, where: str) -> dict[str, Any]:
        """What `from_arrays` takes."""
        datasets = _package(where)
        splits = _load_splits(datasets, path, self.config, download, where)
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
        opened = {key: _Split(splits[split], where) for key, split in split_of.items()}
        del splits  # the package's own copy, its mapped files
        arrays: dict[str, Any] = {}
        for key, rows in opened.items():
            arrays[f"{key}_x"] = _images(rows, image, f"{where}, split {split_of[key]}")
            arrays[f"{key}_y"] = _distinct(rows.values(label))
        channels = max(arrays["train_x"].shape[1], arrays["test_x"].shape[1])
        for key in ("train_x", "test_x"):
            x = arrays[key]  # gray, beside those in color
            arrays[key] = np.broadcast_to(x, (len(x), channels, *x.shape[2:]))
        if self.client is not None:
            arrays["clients"] = _distinct(opened["train"].values(self.client))
        if isinstance(features[label], datasets.ClassLabel):
            arrays["classes"] = features[label].num_classes
        return arrays


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


class _Split:
    """A split, read from its Arrow files; what the package itself maps would stay in memory."""

    def __init__(self, split: Any, where: str) -> None:
        self.features, self.count, self.where = split.features, len(split), where
        self.files = [file["filename"] for file in split.cache_files]
        self.in_memory = None if self.files else split

    def __len__(self) -> int:
        return self.count

    def values(self, column: str) -> Iterator[Any]:
        """The values of a column as they are stored."""
        count = 0
        for rows in self._blocks(column):
            values = rows.column(column).to_pylist()
            count += len(values)
            yield from values
        if count != self.count:
            raise ConfigError(
                [
                    f"{self.where}: its files hold {count} rows, but the split has {self.count}; "
                    "write it anew with save_to_disk"
                ]
            )

    def _blocks(self, column: str) -> Iterator[Any]:
        if self.in_memory is not None:
            yield from self.in_memory.select_columns([column]).with_format("arrow").iter(CHUNK)
        pyarrow: Any = importlib.import_module("pyarrow")
        for file in self.files:
            with pyarrow.OSFile(file) as source, pyarrow.ipc.open_stream(source) as blocks:
                yield from blocks


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The values of a column, equal ones as one object: most columns have few."""
    known: dict[Any, Any] = {}
    return [known.setdefault(v, v) if isinstance(v, (str, int)) else v for v in values]


def _images(split: _Split, column: str, where: str) -> NDArray[np.uint8]:
    """Images of one size as uint8 [N, C, H, W]: C is 1 if all of them are gray, else 3."""
    if not len(split):
        raise ConfigError([f"{where}: it is empty"])
    left_out: Counter[str] = Counter()
    pending, shape = list[NDArray[np.uint8]](), (0, 0, 0)
    writers: list[RowWriter] = []
    with (
        ExitStack() as stack,
        progress(f"decoding {len(split):,} images of {where}", len(split), SILENT) as advance,
    ):
        for i, decoded in enumerate(_decoded(split, column, left_out, where)):
            if i and decoded.shape[1:] != shape[1:]:
                raise ConfigError(
                    [
                        f"{where}: image {i} is {decoded.shape[2]}x{decoded.shape[1]} pixels, the "
                        f"others are {shape[2]}x{shape[1]}; resize all images to one size"
                    ]
                )
            if len(decoded) > shape[0]:  # the first image, and the first one in color
                with space_needed():
                    writers.append(stack.enter_context(RowWriter(len(split) * decoded.nbytes)))
                    if len(writers) == 2:
                        _write_in_color(writers[0], pending, writers[1])
                pending, shape = [], decoded.shape
            pending.append(np.broadcast_to(decoded, shape))
            if len(pending) == CHUNK or i == len(split) - 1:
                with space_needed():
                    writers[-1].append(np.stack(pending))
                advance(len(pending))
                pending = []
        images = writers[-1].array()
    for what, count in left_out.items():
        log.warning("%s: %s: %d", where, what, count)
    return images


def _decoded(
    split: _Split, column: str, left_out: Counter[str], where: str
) -> Iterator[NDArray[np.uint8]]:
    """Every image, uint8 [1 or 3, H, W]; counts in `left_out` what of images is ignored."""
    feature = split.features[column]
    decode = getattr(feature, "decode_example", lambda value: value)
    for i, value in enumerate(split.values(column)):
        try:
            image = value if value is None else decode(value)
            left_out.update(ignored(image) if hasattr(image, "getexif") else [])
            decoded = _pixels(image)
        except Exception as error:  # of many types, depending on format and damage
            raise ConfigError(
                [f"{where}: {column} of row {i} is not a readable image ({error}); remove the row"]
            ) from error
        yield decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1)


def _write_in_color(gray: RowWriter, more: list[NDArray[np.uint8]], color: RowWriter) -> None:
    """Write gray images [1, H, W], written and not yet written, with three channels.

    Raises OSError.
    """
    if more:
        gray.append(np.stack(more))
    written = gray.array()
    for start in range(0, len(written), CHUNK):
        color.append(written[start : start + CHUNK].repeat(3, axis=1))


def _pixels(image: Any) -> NDArray[np.uint8]:
    """uint8 [H, W] or [H, W, 3] of an image, or of numbers in that form."""
    if hasattr(image, "getexif"):
        return pixels(image)
    array = np.asarray(image)
    is_image = array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3
    if not is_image or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{type(image).__name__} {list(array.shape)} of type {array.dtype}; expected an image, "
            "or whole numbers 0..255 [height, width] or [height, width, 3]"
        )
    return array.astype(np.uint8)
