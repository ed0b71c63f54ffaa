"""Made-up samples of any shape and number, for benchmarks and tests: Gaussian classes whose overlap is known."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError

BLOCK = 1 << 18  # numbers drawn at once: they fit a core's cache
GREY, CONTRAST = 128, 32  # pixel value of 0, and of 1 above it


class Options(BaseModel):
    """data.options of data.dataset = synthetic.

    A sample is the mean of its class plus standard normal noise. A class mean has a random direction and length
    `separation`, so two classes are about 1.4 separation standard deviations apart, whatever the shape: 0 cannot be
    learned, at 3 the best possible accuracy with 10 classes is about 90 %, at 6 nearly 100 %.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    shape: list[Annotated[int, Field(ge=1)]] = [64]  # of one sample; [C, H, W] are images
    classes: Annotated[int, Field(ge=2)] = 10
    train: Annotated[int, Field(ge=1)] = 10_000
    test: Annotated[int, Field(ge=1)] = 2_000
    separation: Annotated[float, Field(ge=0)] = 3.0
    seed: Annotated[int, Field(ge=0)] = (
        0  # of the samples; the experiment's own seed does not change them
    )


def load(options: Mapping[str, Any]) -> Dataset:
    """The data set, a pure function of its options: three-dimensional shapes uint8 images, all others float32.

    Raises ConfigError for options that there are not, or that cannot be.
    """
    o = _checked(options)
    generator = np.random.default_rng(o.seed)
    means = generator.standard_normal((o.classes, prod(o.shape)), np.float32)
    means *= o.separation / np.linalg.norm(means, axis=1, keepdims=True)
    train, test = (_samples(means, count, tuple(o.shape), generator) for count in (o.train, o.test))
    mean = std = None
    if len(o.shape) == 3:
        mean, std = (GREY / 255,) * o.shape[0], (CONTRAST / 255,) * o.shape[0]
    return Dataset("synthetic", *train, *test, o.classes, mean, std)


def _checked(options: Mapping[str, Any]) -> Options:
    try:
        return Options(**options)
    except ValidationError as error:
        known, problems = Options.model_fields, []
        for wrong in error.errors():
            key, at = wrong["loc"][0], "".join(f"[{i}]" for i in wrong["loc"][1:])
            problems.append(
                f"data.options.{key}: unknown key; synthetic data has {', '.join(known)}"
                if key not in known
                else f"data.options.{key}{at} = {wrong['input']!r}: {wrong['msg'].replace('Input should', 'it must')}"
            )
        raise ConfigError(problems) from None


def _samples(
    means: np.ndarray, count: int, shape: tuple[int, ...], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples [count, *shape] and their labels int64 [count], drawn in blocks to spare memory."""
    y = generator.integers(len(means), size=count)
    images = len(shape) == 3
    x = np.empty((count, means.shape[1]), np.uint8 if images else np.float32)
    rows = max(1, BLOCK // means.shape[1])
    for start in range(0, count, rows):
        block = generator.standard_normal((min(rows, count - start), means.shape[1]), np.float32)
        block += means[y[start : start + rows]]
        if images:
            block *= CONTRAST
            block += GREY + 0.5  # so that cutting off the fraction rounds
            np.clip(block, 0, 255, out=block)
        x[start : start + rows] = block
    return x.reshape(count, *shape), y
