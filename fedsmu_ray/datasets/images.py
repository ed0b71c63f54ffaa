"""Image files as arrays, decoded once per machine and cached."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets import cache
from fedsmu_ray.datasets.dataset import Dataset, checked, moments
from fedsmu_ray.datasets.folders import named_errors, report_skipped, visible
from fedsmu_ray.datasets.pixels import ignored, pixels, rgb
from fedsmu_ray.datasets.progress import SILENT, progress
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

# Formats that Pillow knows by name but cannot decode alone, and one of arrays without a range.
NOT_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
CHUNK = 256  # images decoded between two updates of the progress display


@dataclass(frozen=True)
class ImageList:
    """Image files and their labels int64 [N], in the order of the samples."""

    files: list[str]
    labels: NDArray[np.int64]


def list_images(split: Path, folders: list[Path]) -> ImageList:
    """The image files of one folder per class, sorted by name; a missing folder has none.

    split: the folder that holds them all. One warning names what else is in there.
    """
    readable, classes = suffixes(), set(map(str, folders))
    files: list[str] = []
    labels: list[int] = []
    # The images of Tiny-ImageNet are in a folder of the class folder.
    skipped = [e.path for e in visible(split) if not classes & {e.path, f"{e.path}/images"}]
    for label, folder in enumerate(folders):
        for entry in visible(folder):
            is_image = os.path.splitext(entry.name)[1].lower() in readable and not entry.is_dir()
            (files if is_image else skipped).append(entry.path)
            labels += [label] * is_image
    report_skipped(split, skipped, "as they are not images in a class folder")
    return ImageList(files, np.array(labels, np.int64))


def suffixes() -> set[str]:
    """Suffixes of the still images that Pillow reads, in lower case."""
    from PIL import Image

    registered = Image.registered_extensions()
    opened = {*Image.OPEN, "MPO"} - NOT_IMAGES  # the JPEG reader opens MPO
    return {suffix for suffix, kind in registered.items() if kind in opened}


def decoded(name: str, root: Path, train: ImageList, test: ImageList, classes: int) -> Dataset:
    """The images as uint8 [N, 3, H, W] (RGB), from the cache or decoded into it.

    They are normalized by the training set's moments. Raises ConfigError that names an image that
    is damaged or not of the size of the first.
    """
    labeled = [
        (file, int(label))
        for images in (train, test)
        for file, label in zip(images.files, images.labels)
    ]
    height, width = _read(train.files[0])[0].shape[:2]

    def write_arrays(folder: Path) -> dict[str, Any]:
        left_out: dict[str, list[str]] = {}
        what = f"decoding {len(labeled):,} images of {root}"
        with progress(what, len(labeled), SILENT, "once; then they are cached") as advance:
            for split, images in (("train", train), ("test", test)):
                shape = (len(images.files), 3, height, width)
                x = np.lib.format.open_memmap(folder / f"{split}_x.npy", "w+", np.uint8, shape)
                _decode(images.files, x, advance, left_out)
                x.flush()
                np.save(folder / f"{split}_y.npy", images.labels)
        mean, std = moments(np.load(folder / "train_x.npy", mmap_mode="r"), 255.0)
        counted = {what: (len(files), min(files)) for what, files in left_out.items()}
        return {"mean": mean, "std": std, "ignored": counted}

    nbytes = len(labeled) * (3 * height * width + 8)
    with named_errors():
        mark = cache.fingerprint(labeled)
    arrays, facts = cache.cached(name, root, mark, nbytes, write_arrays)
    for what, (count, first) in facts["ignored"].items():
        log.warning("%s: %s: %d, such as %s", root, what, count, first)
    mean, std = tuple(facts["mean"]), tuple(facts["std"])
    train_x, train_y, test_x, test_y = (arrays[key] for key in cache.NAMES)
    dataset = Dataset(name, train_x, train_y, test_x, test_y, classes, mean, std)
    return checked(dataset, f"data.root: {root}")


def _decode(
    files: list[str],
    x: NDArray[np.uint8],
    advance: Callable[[int], None],
    left_out: dict[str, list[str]],
) -> None:
    """Decode the files into x [N, 3, H, W], on all cores: Pillow releases the interpreter lock.

    left_out: the files of which something is ignored, by what it is; filled here.
    """

    def decode_chunk(start: int) -> int:
        stop = min(start + CHUNK, len(files))
        for i in range(start, stop):
            decoded, ignored_parts = _read(files[i])
            for what in ignored_parts:
                left_out.setdefault(what, []).append(files[i])
            if decoded.shape[:2] != x.shape[2:]:
                raise ConfigError(
                    [
                        f"data.root: {files[i]} is {decoded.shape[1]}x{decoded.shape[0]} pixels, "
                        f"the others are {x.shape[3]}x{x.shape[2]}; resize all images to one size"
                    ]
                )
            x[i] = decoded.transpose(2, 0, 1)
        return stop - start

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done in pool.map(decode_chunk, range(0, len(files), CHUNK)):
                advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read(file: str) -> tuple[NDArray[np.uint8], list[str]]:
    """RGB pixels, uint8 [H, W, 3], and what of the image they leave out."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            left_out = ignored(image)
            return rgb(pixels(image)), left_out
    except Exception as error:  # of many types, depending on format and damage
        what = str(error) or type(error).__name__
        raise ConfigError(
            [f"data.root: {file} is not a readable image ({what}); replace or remove it"]
        ) from error
