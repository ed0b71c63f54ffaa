"""Synthetic samples of any shape and number: Gaussian classes with a known overlap."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.base import Count, DatasetSource
from fedsmu_ray.datasets.dataset import Dataset

BLOCK = 1 << 18  # numbers drawn at once: they fit a core's cache
GRAY, CONTRAST = 128, 32  # pixel value of 0, and the step from it to the value of 1


@dataclass(frozen=True)
class Synthetic(DatasetSource):
    """Samples drawn from Gaussian classes, a pure function of the options.

    Samples of shape [C, H, W] are uint8 images, all others float32.

    A sample is the mean of its class plus standard normal noise. A class mean has a random
    direction and length `separation`, so two classes are about 1.4 separation standard deviations
    apart, whatever the shape: with 0 nothing can be learned, with 3 the best possible accuracy on
    10 classes is about 90 %, with 6 nearly 100 %.
    """

    shape: Annotated[
        tuple[Count, ...], Field(description="shape of one sample; [C, H, W] are images")
    ] = (64,)
    classes: Annotated[int, Field(ge=2, description="number of classes")] = 10
    train: Annotated[Count, Field(description="number of training samples")] = 10_000
    test: Annotated[Count, Field(description="number of test samples")] = 2_000
    separation: Annotated[
        float,
        Field(ge=0, description="length of the class means; 0: not separable, 6: nearly separable"),
    ] = 3.0
    seed: Annotated[
        int, Field(ge=0, description="seed of the samples; the experiment's seed does not matter")
    ] = 0

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Draw the samples."""
        generator = np.random.default_rng(self.seed)
        means = generator.standard_normal((self.classes, prod(self.shape)), np.float32)
        means *= self.separation / np.linalg.norm(means, axis=1, keepdims=True)
        train_x, train_y = _samples(means, self.train, self.shape, generator)
        test_x, test_y = _samples(means, self.test, self.shape, generator)
        mean = std = None
        if len(self.shape) == 3:
            mean, std = (GRAY / 255,) * self.shape[0], (CONTRAST / 255,) * self.shape[0]
        return Dataset(name, train_x, train_y, test_x, test_y, self.classes, mean, std)


def _samples(
    means: NDArray[np.float32], count: int, shape: tuple[int, ...], generator: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Samples [count, *shape] and their labels int64 [count], drawn in blocks to spare memory."""
    y = generator.integers(len(means), size=count)
    are_images = len(shape) == 3
    x = np.empty((count, means.shape[1]), np.uint8 if are_images else np.float32)
    rows = max(1, BLOCK // means.shape[1])
    for start in range(0, count, rows):
        block = generator.standard_normal((min(rows, count - start), means.shape[1]), np.float32)
        block += means[y[start : start + rows]]
        if are_images:
            block *= CONTRAST
            block += GRAY + 0.5  # so that truncation rounds
            np.clip(block, 0, 255, out=block)
        x[start : start + rows] = block
    return x.reshape(count, *shape), y
