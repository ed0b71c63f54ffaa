"""A model's trainable parameters as one flat vector: the only owner of parameter names and offsets.

The vector holds the trainable parameters in registration order, each flattened row-major. Buffers are not part
of it, so a module whose training changes buffers (batch-norm statistics) is refused.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import isfinite, prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

BLOCK = 1 << 17  # elements of a block: its temporaries stay in a core's cache
LARGE = (
    1 << 16
)  # elements from which a pass over memory costs more than to have it compiled (`kernels`)


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
        return [
            v.unflatten(-1, s) if s else v.squeeze(-1)
            for v, s in zip(x.split(self.sizes, dim=-1), self.shapes)
        ]

    def named(self, views: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, views))


def flatten(module: nn.Module) -> Tensor:
    """A copy of the trainable parameters as float32 [P]."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in module.parameters() if p.requires_grad]).float()


def load(module: nn.Module, x: Tensor) -> nn.Module:
    """Write the vector x [P] into the module's parameters; returns the module."""
    with torch.no_grad():
        for view, p in zip(
            Layout.of(module).views(x), (p for p in module.parameters() if p.requires_grad)
        ):
            p.copy_(view)
    return module


def sha256(x: Tensor) -> str:
    """SHA-256 of the vector as little-endian float32: the `model_sha256` of a run."""
    return hashlib.sha256(x.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory. Shared-memory arrays are read-only, and are only ever read here."""
    _warned()
    return torch.from_numpy(array)


@cache
def _warned() -> None:
    """Provoke and drop PyTorch's warning of read-only arrays, which it gives once in a process: silencing it at every
    call would take longer than all the rest of a tiny client's state."""
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uninitialised tensor with the dtype and device of `like`."""
    if like.is_cuda:
        return like.new_empty(shape)
    # NumPy asks the kernel for huge pages and torch does not: touching fresh memory is most of an elementwise pass.
    return torch.from_numpy(np.empty(shape, like[:0].numpy().dtype))


def chunked(step: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`step(first, *blocks)`, elementwise, on blocks of the columns of `tensors` ([P] or [C, P]), put together again.

    first: the column a block begins with. The bits are those of `step(0, *tensors)`, but on the CPU only the tensors
    themselves cross the memory bus, not the temporaries of `step`.
    """
    dim = tensors[0].shape[-1]
    width = max(64, BLOCK * dim // max(t.numel() for t in tensors))
    if width >= dim or tensors[0].is_cuda:
        return step(0, *tensors)
    results: list[Tensor] = []
    for first in range(0, dim, width):
        parts = step(first, *(t[..., first : first + width] for t in tensors))
        results = results or [empty((*part.shape[:-1], dim), part) for part in parts]
        for result, part in zip(results, parts):
            result[..., first : first + width] = part
    return tuple(results)


def finite(x: Tensor) -> bool:
    """Whether x holds neither NaN nor Inf."""
    return all(isfinite(v) for v in torch.aminmax(x))  # NaN anywhere makes both NaN
