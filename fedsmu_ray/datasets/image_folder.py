"""Folders of image files in the usual layout, <split>/<class>/*."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.images import SUFFIXES, decoded, list_images
from fedsmu_ray.errors import ConfigError


@dataclass(frozen=True)
class ImageFolder(DatasetSource):
    """Images of one size in <root>/{train,test}/<class>/*.

    They are read as RGB. Classes are the folder names, sorted.
    """

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """List the images, and decode them unless they are cached."""
        classes = _subfolders(root / "train")
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
        extra = sorted(set(_subfolders(root / "test")) - set(classes))
        if extra:
            raise ConfigError(
                [
                    f"data.root: {root / 'test'} has classes without training images: "
                    f"{', '.join(extra[:5])}"
                ]
            )
        splits = {s: list_images([root / s / c for c in classes]) for s in ("train", "test")}
        for split, images in splits.items():
            if not images.files:
                suffixes = ", ".join(sorted(SUFFIXES))
                raise ConfigError([f"data.root: {root / split} holds no images ({suffixes})"])
        return decoded(name, root, splits["train"], splits["test"], len(classes))


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir()) if folder.is_dir() else []
