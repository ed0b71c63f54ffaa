"""Training and evaluation mode of a module, which some of its layers may be kept out of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def start_training(module: nn.Module) -> nn.Module:
    """Put a new module into training mode; returns it.

    Layers stay in evaluation mode that were put there within a module that was not: frozen batch
    norms, for example. A module's own `train` may keep them there, too.
    """
    frozen = [layer for layer in module.modules() if not layer.training] if module.training else []
    module.train()
    for layer in frozen:
        layer.training = False
    return module


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode in this block; afterwards every layer has the mode that it had before."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
