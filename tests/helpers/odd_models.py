"""Models that users write and that training has to take, or refuse, for images [1, 8, 8]."""

import random
import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


def mlp(shape, classes, width=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


# --- what works ---


def backbone():
    """A batch norm whose statistics are not those of a new one."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
    layers[2].running_mean += 0.1
    layers[2].running_var *= 2
    return layers


class DrawsInEvaluation(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        noise = torch.from_numpy(np.random.randn(64)).float() * random.random()
        return self.layer(F.dropout(x.flatten(1) + 0.1 * noise, 0.1, training=True))


class FrozenByTrain(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.backbone, self.head = backbone(), nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.backbone(x))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self


def frozen_by_eval(shape, classes):
    return nn.Sequential(backbone().requires_grad_(False).eval(), nn.Linear(32, classes))


class UnusedBatchNorm(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.head, self.unused = nn.Linear(64, classes), nn.BatchNorm1d(64)

    def forward(self, x):
        return self.head(x.flatten(1))


def uses_a_list(shape, classes):
    return Forward(shape, classes, "uses_a_list")


def lazy(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(classes))


def old_weight_norm(shape, classes):
    module = mlp(shape, classes)
    module[1] = nn.utils.weight_norm(module[1])
    return module


def weight_norm(shape, classes):
    module = mlp(shape, classes)
    module[1] = parametrizations.weight_norm(module[1])
    return module


class Tied(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.two(self.one(x.flatten(1)).relu()))


class Locked(nn.Module):
    """It can be neither copied nor pickled."""

    def __init__(self, shape, classes):
        super().__init__()
        self.net, self.lock, self.act = mlp(shape, classes), threading.Lock(), lambda x: 2 * x

    def forward(self, x):
        with self.lock:
            return self.act(self.net(x))


class ChangesInputs(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.net = mlp(shape, classes)

    def forward(self, x):
        return self.net(x.mul_(0.5))


class Checkpointed(nn.Module):
    """vmap takes its forward but not its backward."""

    def __init__(self, shape, classes):
        super().__init__()
        self.net = mlp(shape, classes)

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=False)


def double(shape, classes):
    return mlp(shape, classes).double()


class Half(nn.Module):
    """Its logits are near 100 and have 11 bits: their sums over a batch would overflow."""

    def __init__(self, shape, classes):
        super().__init__()
        self.net = mlp(shape, classes)

    def forward(self, x):
        return (100 * self.net(x)).half()


class EmptyParameter(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.net, self.empty, self.unused = (
            mlp(shape, classes),
            nn.Parameter(torch.ones(0, 3)),
            nn.Parameter(torch.ones(2)),
        )

    def forward(self, x):
        return self.net(x)


class Shared(nn.Module):
    """One layer, registered twice."""

    def __init__(self, shape, classes):
        super().__init__()
        layer = nn.Linear(64, 64)
        self.net = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, classes))

    def forward(self, x):
        return self.net(x)


# --- what is refused ---

BUILT_ONCE = nn.Linear(64, 10)


def built_once(shape, classes):
    return nn.Sequential(nn.Flatten(), BUILT_ONCE)


def a_class(shape, classes):
    return nn.Linear


class Squeeze(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(x.flatten(1)).squeeze()


def batch_statistics(shape, classes):
    module = mlp(shape, classes)
    module[2] = nn.BatchNorm1d(16, track_running_stats=False)
    return module


def scripted(shape, classes):
    return torch.jit.script(mlp(shape, classes))


def parallel(shape, classes):
    return nn.DataParallel(mlp(shape, classes))


def spectral_norm(shape, classes):
    module = mlp(shape, classes)
    module[1] = parametrizations.spectral_norm(module[1])
    return module


class Embeds(nn.Module):
    def __init__(self, shape, classes, **options):
        super().__init__()
        self.embedding, self.head = nn.Embedding(17, 8, **options), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.embedding(x.flatten(1).clamp(0, 16).long()).mean(1))


class Complex(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes, dtype=torch.complex64)

    def forward(self, x):
        return self.layer(x.flatten(1).to(torch.complex64)).real


def on_meta(shape, classes):
    with torch.device("meta"):
        return mlp(shape, classes)


class LazyBranch(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.head, self.branch = nn.Linear(64, classes), nn.LazyLinear(3)

    def forward(self, x):
        return self.head(x.flatten(1))


class Forward(nn.Module):
    """A linear layer with a forward of the name `kind`."""

    def __init__(self, shape, classes, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(64, classes), kind
        self.listed, self.copies = [self.layer.weight], [self.layer.weight.data]
        if kind == "nan":
            nn.init.constant_(self.layer.weight, float("nan"))

    def forward(self, x):
        return getattr(self, self.kind)(x.flatten(1))

    def nan(self, x):
        return self.layer(x)

    def nan_gradient(self, x):
        z = self.layer(x)
        return z + (z - z).sqrt()

    def detached(self, x):
        return self.layer(x).detach()

    def toggles(self, x):
        self.layer.weight.requires_grad_(False)
        return self.layer(x)

    def changes_parameters(self, x):
        self.layer.weight.data.clamp_(-0.01, 0.01)
        return self.layer(x)

    def changes_in_evaluation(self, x):
        if not self.training:
            self.layer.weight.data.clamp_(-0.01, 0.01)
        return self.layer(x)

    def uses_copies(self, x):
        return F.linear(x, self.copies[0], self.layer.bias)

    def uses_a_list(self, x):
        return F.linear(x, self.listed[0], self.layer.bias)

    def exits(self, x):
        raise SystemExit("done")

    def fails_in_evaluation(self, x):
        assert self.training, "for training only"
        return self.layer(x)

    def tuple_in_evaluation(self, x):
        return self.layer(x) if self.training else (self.layer(x), x)

    def integers(self, x):
        return self.layer(x).long()

    def exits_for_large_batches(self, x):
        if len(x) > 20:
            raise SystemExit(0)
        return self.layer(x)

    def fails_in_large_evaluations(self, x):
        assert self.training or len(x) < 20, "too many"
        return self.layer(x)
