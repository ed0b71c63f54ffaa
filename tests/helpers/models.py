"""Models for tests: built by name, and user models for `import:tests.helpers.models:...`."""

import torch
from torch import nn

from fedsmu_ray.models import registry

CIFAR, IMAGENET, TEXT = (3, 32, 32), (3, 224, 224), (80,)


def build(options, shape=CIFAR, classes=10, seed=0):
    """Build the module of a section `model`."""
    options = dict(options)
    name = options.pop("name")
    model = registry.find(name)(**options)
    symbols = 80 if shape == TEXT else None
    return registry.build(name, model, shape, classes, seed, symbols)


def inputs_of(shape, n=2):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randint(80, (n, *shape), generator=g)
        if shape == TEXT
        else torch.randn(n, *shape, generator=g)
    )


def dropout_mlp(shape, classes, width=16, p=0.5):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, classes)
    )


def batch_norm_mlp(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


class Counting(nn.Module):
    def __init__(self, shape=None, classes=10):
        super().__init__()
        self.layer = nn.Linear(64, classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.layer(x.flatten(1))


def wrong_head(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))


def not_a_module(shape, classes):
    return "a model"


def raising(shape, classes):
    raise KeyError("weights")


def adaptive_pooling(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(18, classes)
    )


def dropout_cnn(shape, classes):
    return nn.Sequential(
        nn.Conv2d(3, 2, 5), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(288, classes)
    )
