"""Folders of image files in the usual layout, <split>/<class>/*."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.folders import shortened, visible
from fedsmu_ray.datasets.images import ImageList, decoded, list_images, suffixes
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder(DatasetSource):
    """Images of one size in <root>/{train,test}/<class>/*.

    They are read as RGB. Classes are the folder names, sorted. Hidden files and folders are
    ignored.
    """

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """List the images, and decode them unless they are cached."""
        classes = _class_folders(root / "train")
        if not classes:
            raise ConfigError(
                [
                    f"data.dataset = {name}: {root}/train has no class folders; set data.root to a "
                    "folder that has train/<class>/*.jpg and test/<class>/*.jpg"
                ]
            )
        if not (root / "test").is_dir():
            raise ConfigError(
                [f"data.root: {root / 'test'} is missing; an image folder needs train/ and test/"]
            )
        tested = _class_folders(root / "test")
        extra = sorted(set(tested) - set(classes))
        if extra:
            raise ConfigError(
                [
                    f"data.root: {root / 'test'} has classes without training images: "
                    f"{shortened(extra)}; their folders must be called alike in train/ and test/"
                ]
            )
        train, test = (_images(root / s, classes) for s in ("train", "test"))
        _check_counts(root / "train", classes, classes, train)
        _check_counts(root / "test", classes, tested, test)
        untested = [c for c in classes if c not in tested]
        if untested:
            log.warning("%s has no images of %s", root / "test", shortened(untested))
        return decoded(name, root, train, test, len(classes))


def _class_folders(split: Path) -> list[str]:
    return [entry.name for entry in visible(split) if entry.is_dir()]


def _images(split: Path, classes: list[str]) -> ImageList:
    return list_images(split, [split / name for name in classes])


def _check_counts(split: Path, classes: list[str], folders: list[str], images: ImageList) -> None:
    """Every class folder of a split must hold images."""
    counts = dict(zip(classes, np.bincount(images.labels, minlength=len(classes))))
    empty = [name for name in folders if not counts[name]]
    if empty or not folders:
        what = (
            f"class folders without images: {shortened(empty)}" if folders else "no class folders"
        )
        raise ConfigError(
            [
                f"data.root: {split}: {what}; images must be in <class>/ itself and have a suffix "
                f"that Pillow reads: {', '.join(sorted(suffixes()))}"
            ]
        )
