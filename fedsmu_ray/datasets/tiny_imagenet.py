"""Tiny-ImageNet-200 as it is distributed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.folders import visible
from fedsmu_ray.datasets.images import ImageList, decoded, list_images
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class TinyImageNet(DatasetSource):
    """Tiny-ImageNet-200: wnids.txt, train/<wnid>/images/* and val/images/*.

    The test set is the validation images, labeled by val/val_annotations.txt. Classes are in the
    order of wnids.txt. The folder tiny-imagenet-200 is `root` or in `root`.
    """

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """List and check the images, and decode them unless they are cached."""
        places = [root / "tiny-imagenet-200", root]
        place = next((p for p in places if (p / "wnids.txt").is_file()), None)
        if place is None:
            raise ConfigError(
                [
                    f"data.dataset = {name}: no wnids.txt in {' or '.join(map(str, places))}; "
                    "unpack "
                    "tiny-imagenet-200.zip and set data.root (or $FEDSMU_DATA) to its folder"
                ]
            )
        wnids = (place / "wnids.txt").read_text().split()
        train = _training_images(place / "train", wnids)
        test = _validation_images(place / "val", wnids)
        return decoded(name, place, train, test, len(wnids))


def _training_images(folder: Path, wnids: list[str]) -> ImageList:
    """The training images; every class must have the same number."""
    images = list_images(folder, [folder / wnid / "images" for wnid in wnids])
    counts = np.bincount(images.labels, minlength=len(wnids))
    short = np.flatnonzero(counts < counts.max(initial=1))
    if len(short):
        raise ConfigError(
            [
                f"data.root: {folder} is not complete: {len(short)} of {len(wnids)} classes have "
                f"too few images ({wnids[short[0]]} has {counts[short[0]]}, others "
                f"{counts.max(initial=0)}); unpack it again"
            ]
        )
    return images


def _validation_images(folder: Path, wnids: list[str]) -> ImageList:
    """The validation images; every annotated image must exist, and every label must be a class."""
    annotations, images = folder / "val_annotations.txt", folder / "images"
    if not annotations.is_file():
        raise ConfigError(
            [
                f"data.root: {annotations}, the file of the validation labels, is missing; unpack "
                "the archive again"
            ]
        )
    classes = {wnid: label for label, wnid in enumerate(wnids)}
    existing = {entry.name for entry in visible(images)}
    files, labels = [], []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, wnid = (line.split("\t") + ["", ""])[:2]
        if wnid not in classes:
            raise ConfigError(
                [
                    f"data.root: {annotations}, line {number}: label {wnid!r} of {name!r} is not "
                    "in wnids.txt"
                ]
            )
        if name not in existing:
            raise ConfigError(
                [
                    f"data.root: {images / name} is missing (line {number} of "
                    "val_annotations.txt); unpack the archive again"
                ]
            )
        files.append(os.path.join(images, name))
        labels.append(classes[wnid])
    if len(existing) > len(files) or not files:
        raise ConfigError(
            [
                f"data.root: {annotations} labels {len(files)} of {len(existing)} images; unpack "
                "the archive again"
            ]
        )
    return ImageList(files, np.array(labels, np.int64))
