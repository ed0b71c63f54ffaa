"""Synthetic samples of any shape and number: Gaussian classes with a known overlap."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.base import Count, DatasetSource
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.objectives.targets import Targets

BLOCK = 1 << 18  # numbers drawn at once: they fit a core's cache
GRAY, CONTRAST = 128, 32  # pixel value of 0, and the step from it to the value of 1


@dataclass(frozen=True)
class Synthetic(DatasetSource):
    """Samples drawn from Gaussian classes, a pure function of the options.

    With several labels, a sample has the means of all that are 1, and with values, the means times
    the values, which are standard normal.

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
    targets: Annotated[
        Literal["classes", "multi_hot", "values"],
        Field(
            description="what is to be learned: one class per sample, zeros and ones for "
            "`classes` labels, or `classes` values"
        ),
    ] = "classes"
    seed: Annotated[
        int, Field(ge=0, description="seed of the samples; the experiment's seed does not matter")
    ] = 0

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Draw the samples."""
        generator = np.random.default_rng(self.seed)
        means = generator.standard_normal((self.classes, prod(self.shape)), np.float32)
        means *= self.separation / np.linalg.norm(means, axis=1, keepdims=True)
        sizes, kind = (self.train, self.test), self.targets
        (train_x, train_y), (test_x, test_y) = (
            _samples(means, size, self.shape, generator, kind) for size in sizes
        )
        mean = std = None
        if len(self.shape) == 3:
            mean, std = (GRAY / 255,) * self.shape[0], (CONTRAST / 255,) * self.shape[0]
        arrays = train_x, train_y, test_x, test_y
        return Dataset(name, *arrays, self.classes, mean, std, targets=kind)


def _samples(
    means: NDArray[np.float32],
    count: int,
    shape: tuple[int, ...],
    generator: np.random.Generator,
    kind: Targets,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples [count, *shape] and their targets, drawn in blocks to spare memory."""
    y = _targets(len(means), count, generator, kind)
    are_images = len(shape) == 3
    x = np.empty((count, means.shape[1]), np.uint8 if are_images else np.float32)
    rows = max(1, BLOCK // means.shape[1])
    for start in range(0, count, rows):
        block = generator.standard_normal((min(rows, count - start), means.shape[1]), np.float32)
        part = y[start : start + rows]
        block += means[part] if kind == "classes" else part @ means
        if are_images:
            block *= CONTRAST
            block += GRAY + 0.5  # so that truncation rounds
            np.clip(block, 0, 255, out=block)
        x[start : start + rows] = block
    return x.reshape(count, *shape), y


def _targets(
    classes: int, count: int, generator: np.random.Generator, kind: Targets
) -> NDArray[Any]:
    """Classes [count]; or labels, of which a third are 1, or normal values, both [count, K]."""
    if kind == "classes":
        return generator.integers(classes, size=count)
    drawn = generator.standard_normal((count, classes), np.float32)
    return drawn if kind == "values" else (drawn > 0.43).astype(np.float32)
