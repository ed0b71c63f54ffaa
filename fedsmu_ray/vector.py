"""A model's trainable parameters as one flat vector: the only owner of parameter names and offsets.

The vector holds the trainable parameters in registration order, each flattened row-major. Buffers are not part
of it, so a module whose training changes buffers (batch-norm statistics) is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of the L parameter tensors inside the vector of length `dim`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    @staticmethod
    def of(module: nn.Module) -> Layout:
        """Layout of `module`; raises ValueError for modules whose training would change buffers."""
        for name, child in module.named_modules():
            if isinstance(child, _NormBase) and child.track_running_stats:
                raise ValueError(
                    f"model: layer '{name}' ({type(child).__name__}) keeps running statistics, which are not parameters "
                    "and would silently be left out of federated averaging; use GroupNorm or LayerNorm instead"
                )
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        shapes = tuple(tuple(p.shape) for _, p in named)
        return Layout(tuple(n for n, _ in named), shapes, tuple(prod(s) for s in shapes))

    def views(self, x: Tensor) -> list[Tensor]:
        """Tensors of the layout as views of x: [P] gives shapes, [C, P] gives [C, *shape]."""
        return [v.unflatten(-1, s) if s else v.squeeze(-1) for v, s in zip(x.split(self.sizes, dim=-1), self.shapes)]

    def named(self, views: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, views))


def flatten(module: nn.Module) -> Tensor:
    """A copy of the trainable parameters as float32 [P]."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in module.parameters() if p.requires_grad]).float()


def load(module: nn.Module, x: Tensor) -> nn.Module:
    """Write the vector x [P] into the module's parameters; returns the module."""
    with torch.no_grad():
        for view, p in zip(Layout.of(module).views(x), (p for p in module.parameters() if p.requires_grad)):
            p.copy_(view)
    return module


def sha256(x: Tensor) -> str:
    """SHA-256 of the vector as little-endian float32: the `model_sha256` of a run."""
    return hashlib.sha256(x.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()
