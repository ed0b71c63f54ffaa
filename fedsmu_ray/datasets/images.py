"""Folders of image files: the usual train/<class>/* layout, and Tiny-ImageNet as it is distributed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets import cache
from fedsmu_ray.datasets.dataset import Dataset, moments
from fedsmu_ray.errors import ConfigError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
CHUNK = 256  # images decoded between two looks at the progress display
SILENT = 2000  # images that decode too quickly to show progress


@dataclass(frozen=True)
class Split:
    """Image files and their labels, in the order of the samples."""

    files: list[str]
    labels: np.ndarray


def image_folder(root: Path) -> Dataset:
    """<root>/{train,test}/<class>/*: images of one size, read as RGB; classes are the folder names, sorted."""
    names = _folders(root / "train")
    if not names:
        raise ConfigError(
            [
                f"data.dataset = image_folder: {root}/train has no class folders; set data.root to a folder "
                "laid out as train/<class>/*.jpg and test/<class>/*.jpg"
            ]
        )
    if not (root / "test").is_dir():
        raise ConfigError(
            [f"data.root: {root / 'test'} is missing; an image folder needs train/ and test/"]
        )
    extra = sorted(set(_folders(root / "test")) - set(names))
    if extra:
        raise ConfigError(
            [
                f"data.root: {root / 'test'} has classes without training images: {', '.join(extra[:5])}"
            ]
        )
    train, test = (_split([root / split / name for name in names]) for split in ("train", "test"))
    for split, found in (("train", train), ("test", test)):
        if not found.files:
            raise ConfigError(
                [f"data.root: {root / split} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"]
            )
    return _decoded("image_folder", root, train, test, len(names))


def tiny_imagenet(root: Path) -> Dataset:
    """Tiny-ImageNet-200 as distributed: wnids.txt, train/<wnid>/images/*, and the validation images as the test set,
    labelled by val/val_annotations.txt. Classes are in the order of wnids.txt."""
    places = [root / "tiny-imagenet-200", root]
    place = next((p for p in places if (p / "wnids.txt").is_file()), None)
    if place is None:
        raise ConfigError(
            [
                f"data.dataset = tiny_imagenet: no wnids.txt in {' or '.join(map(str, places))}; unpack "
                "tiny-imagenet-200.zip and set data.root (or $FEDSMU_DATA) to its folder"
            ]
        )
    wnids = (place / "wnids.txt").read_text().split()
    train = _split([place / "train" / wnid / "images" for wnid in wnids])
    counts = np.bincount(train.labels, minlength=len(wnids))
    short = np.flatnonzero(counts < counts.max(initial=1))
    if len(short):
        raise ConfigError(
            [
                f"data.root: {place / 'train'} is not complete: {len(short)} of {len(wnids)} classes have too few "
                f"images ({wnids[short[0]]} has {counts[short[0]]}, others {counts.max(initial=0)}); unpack it "
                "again"
            ]
        )
    return _decoded("tiny_imagenet", place, train, _validation(place / "val", wnids), len(wnids))


def _validation(folder: Path, wnids: list[str]) -> Split:
    """The validation images; every annotated image must be there and every label a class."""
    annotations = folder / "val_annotations.txt"
    if not annotations.is_file():
        raise ConfigError(
            [
                f"data.root: {annotations} is missing, and with it the validation labels; unpack the archive again"
            ]
        )
    classes = {wnid: label for label, wnid in enumerate(wnids)}
    there = (
        {e.name for e in os.scandir(folder / "images")} if (folder / "images").is_dir() else set()
    )
    files, labels = [], []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, label = (line.split("\t") + ["", ""])[:2]
        if label not in classes:
            raise ConfigError(
                [
                    f"data.root: {annotations}, line {number}: label {label!r} of {name!r} is not in wnids.txt"
                ]
            )
        if name not in there:
            raise ConfigError(
                [
                    f"data.root: {folder / 'images' / name} is missing (line {number} of val_annotations.txt); "
                    "unpack the archive again"
                ]
            )
        files.append(os.path.join(folder, "images", name))
        labels.append(classes[label])
    if len(there) > len(files) or not files:
        raise ConfigError(
            [
                f"data.root: {annotations} labels {len(files)} of {len(there)} images; unpack the archive again"
            ]
        )
    return Split(files, np.array(labels, np.int64))


def _folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir()) if folder.is_dir() else []


def _split(folders: list[Path]) -> Split:
    """Images of one folder per class; a folder that is missing has none."""
    files, labels = [], []
    for label, folder in enumerate(folders):
        names = sorted(e.name for e in os.scandir(folder)) if folder.is_dir() else []
        found = [
            os.path.join(folder, n)
            for n in names
            if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES
        ]
        files += found
        labels += [label] * len(found)
    return Split(files, np.array(labels, np.int64))


def _decoded(name: str, root: Path, train: Split, test: Split, classes: int) -> Dataset:
    """The images as uint8 [N, 3, H, W], from the cache or decoded into it, normalised by the training set's moments."""
    both = [
        (f, int(label)) for split in (train, test) for f, label in zip(split.files, split.labels)
    ]
    height, width = _pixels(train.files[0]).shape[:2]

    def make(folder: Path) -> dict:
        with _progress(f"decoding {len(both):,} images of {root}", len(both)) as advance:
            for split_name, split in (("train", train), ("test", test)):
                shape = (len(split.files), 3, height, width)
                x = np.lib.format.open_memmap(folder / f"{split_name}_x.npy", "w+", np.uint8, shape)
                _decode(split.files, x, advance)
                x.flush()
                np.save(folder / f"{split_name}_y.npy", split.labels)
        return dict(
            zip(("mean", "std"), moments(np.load(folder / "train_x.npy", mmap_mode="r"), 255.0))
        )

    nbytes = len(both) * (3 * height * width + 8)
    arrays, facts = cache.cached(name, root, cache.fingerprint(both), nbytes, make)
    return Dataset(
        name, **arrays, classes=classes, mean=tuple(facts["mean"]), std=tuple(facts["std"])
    )


def _decode(files: list[str], x: np.ndarray, advance) -> None:
    """Decode the files into x [N, 3, H, W], on all cores: Pillow decodes outside the interpreter lock."""

    def chunk(start: int) -> int:
        stop = min(start + CHUNK, len(files))
        for i in range(start, stop):
            pixels = _pixels(files[i])
            if pixels.shape[:2] != x.shape[2:]:
                raise ConfigError(
                    [
                        f"data.root: {files[i]} is {pixels.shape[1]}x{pixels.shape[0]} pixels, the others are "
                        f"{x.shape[3]}x{x.shape[2]}; resize all images to one size"
                    ]
                )
            x[i] = pixels.transpose(2, 0, 1)
        return stop - start

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done in pool.map(chunk, range(0, len(files), CHUNK)):
                advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pixels(file: str) -> np.ndarray:
    """RGB pixels, uint8 [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # Pillow's errors for damaged files
        raise ConfigError(
            [f"data.root: {file} is not a readable image ({error}); replace or remove it"]
        ) from None


@contextmanager
def _progress(what: str, total: int) -> Iterator:
    """A bar on a terminal, a line now and then elsewhere, nothing for a moment's work; yields advance(count)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, quiet=total <= SILENT)
    done, spoken = 0, time.monotonic()
    if not console.is_terminal:
        console.print(f"{what} (once; then they are cached)", soft_wrap=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total <= SILENT,
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            nonlocal done, spoken
            done += count
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - spoken > 10:
                console.print(f"{what}: {done:,}", soft_wrap=True)
                spoken = time.monotonic()

        yield advance
