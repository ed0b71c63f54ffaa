"""Models by name, sized after the data. Initialised from the experiment's seed only."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from fedsmu_ray.config import ModelConfig
from fedsmu_ray.errors import ConfigError


def mlp(shape: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> nn.Module:
    """Fully connected ReLU network. The default widths (200, 200) are McMahan et al.'s "2NN" (AISTATS 2017)."""
    widths = (prod(shape), *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in zip(widths, widths[1:]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def lenet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The FedDyn / FedSMU CIFAR network: two 5x5 convolutions of 64 filters, then 384, 192, classes.

    797,962 parameters for 3x32x32 images and 10 classes, 815,332 for 100 classes. Other image sizes change only
    the first fully connected layer.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise ConfigError(
            [f"model.name: lenet needs images [channels, height, width] of at least 16x16 pixels, but the data has "
             f"{list(shape)}; use model.name=mlp"])
    channels, height, width = shape
    h, w = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * h * w, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, classes),
    )


def build(model: ModelConfig, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The model for samples of `shape` with PyTorch's default initialisation drawn from `seed`.

    PyTorch initialises from its global generator; it is forked, seeded and restored here, on the CPU, so the
    result depends on `seed` alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match model.name:
            case "mlp":
                return mlp(shape, classes, tuple(model.hidden))
            case "lenet":
                return lenet(shape, classes)
            case other:
                raise AssertionError(other)


def batches_clients(module: nn.Module) -> bool:
    """Whether training several clients in one batched computation pays on a CPU.

    It does for stacks of small matrices, where a client alone is all overhead; a convolution already fills the
    core with one client, and its batched form (grouped convolution) is slower there.
    """
    return not any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())
