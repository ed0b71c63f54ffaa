"""User models for `import:` that draw random numbers, keep state, or mix the samples of a batch."""

import os
import random

import numpy as np
import torch
from torch import nn


class Fixed(nn.Module):
    """Random features: a matrix that is drawn and not trained, and a linear layer.

    place: where the matrix is kept.
    """

    def __init__(self, drawn, place, classes):
        super().__init__()
        w = torch.from_numpy(np.asarray(drawn)).float()
        if place == "parameter":
            self.w = nn.Parameter(w, requires_grad=False)
        elif place == "attribute":
            self.w = w
        else:
            self.register_buffer("w", w, persistent=place == "buffer")
        self.layer = nn.Linear(w.shape[1], classes)

    def forward(self, x):
        return self.layer(torch.relu(x.flatten(1) @ self.w))


def fixed(shape, classes, draw="numpy", place="buffer"):
    draws = {
        "numpy": lambda: np.random.randn(64, 32),
        "python": lambda: [[random.gauss(0, 1) for _ in range(32)] for _ in range(64)],
        "entropy": lambda: np.random.default_rng().normal(size=(64, 32)),
        "process": lambda: np.random.default_rng(os.getpid()).normal(size=(64, 32)),
    }
    return Fixed(draws[draw](), place, classes)


class Noisy(nn.Module):
    """A linear layer of inputs that `noise`, called with inputs and module, changes in training."""

    def __init__(self, classes, noise):
        super().__init__()
        self.layer, self.noise = nn.Linear(64, classes), noise
        self.steps, self.generator, self.kept = 0, torch.Generator().manual_seed(0), None

    def forward(self, x):
        x = x.flatten(1)
        self.steps += 1
        return self.layer(self.noise(x, self) if self.training else x)


def _keep(x, module):
    """Inputs times a number that is computed from the first parameters and kept."""
    if module.kept is None:
        module.kept = module.layer.weight.detach().abs().sum()
    return x * module.kept


NOISE = {
    "none": lambda x, module: x,
    "numpy": lambda x, module: x * (0.5 + np.random.rand()),
    "python": lambda x, module: x * (0.5 + random.random()),
    "late": lambda x, module: x * random.random() if module.steps > 30 else x,
    "own generator": lambda x, module: x + torch.randn(64, generator=module.generator),
    "counter": lambda x, module: x / module.steps,
    "kept": _keep,
}


def noisy(shape, classes, how):
    return Noisy(classes, NOISE[how])


class Mixing(nn.Module):
    """A linear layer of inputs that `mix` changes, batch by batch."""

    def __init__(self, mix, classes, zeros):
        super().__init__()
        self.mix, self.layer = mix, nn.Linear(64, classes)
        if zeros:
            nn.init.zeros_(self.layer.weight)

    def forward(self, x):
        return self.layer(self.mix(x.flatten(1)))


def _two_experts_of_three_places(x):
    """Of the samples that are brighter above, and of all others, the first three get through."""
    above = x[:, :32].sum(1) > x[:, 32:].sum(1)
    place = torch.where(above, above.cumsum(0), (~above).cumsum(0))
    return x * (place <= 3)[:, None]


class _Penalized(nn.Module):
    """What its hook returns is added to the gradient of its inputs, as the penalty of a loss."""

    def __init__(self, penalty):
        super().__init__()
        self.before, self.penalty = nn.Linear(64, 64), penalty

    def forward(self, x):
        h = self.before(x)
        if h.requires_grad:
            penalty = self.penalty(h.detach())
            h.register_hook(lambda gradient: gradient + penalty)
        return h


MIXES = {
    "batch norm": lambda: nn.BatchNorm1d(64, track_running_stats=False),
    "batch norm 2d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()
    ),
    "standard deviation": lambda: lambda x: x / (x.std() + 1e-5),
    "size of the batch": lambda: lambda x: x / len(x),
    "capacity": lambda: _two_experts_of_three_places,
    "sum of those before": lambda: lambda x: x + 1e-3 * x.cumsum(0),
    "sparse activations": lambda: _Penalized(lambda h: 1e-3 * h.sign()),
    "small activations": lambda: _Penalized(lambda h: torch.full_like(h, 1e-3)),
    "layer norm": lambda: nn.LayerNorm(64),
    "group norm": lambda: nn.GroupNorm(4, 64),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.InstanceNorm2d(1), nn.Flatten()
    ),
    "dropout": lambda: nn.Dropout(0.5),
    "nothing": lambda: nn.Identity(),
}
KEEP_APART = ("layer norm", "group norm", "instance norm", "dropout", "nothing")


def mixing(shape, classes, how, zeros=False):
    return Mixing(MIXES[how](), classes, zeros)
