"""A model's trainable parameters as one flat vector, with their names and offsets.

The vector holds the trainable parameters in registration order, each flattened row-major. All other
tensors of a module (buffers and frozen parameters) are its *constants*: they travel with the model,
but are not trained, so a module whose training changes buffers (batch-norm statistics) is refused
(`models.checks`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

CHUNK = 1 << 17  # elements of a chunk: its temporaries stay in a core's cache


@dataclass(frozen=True)
class Layout:
    """Names, shapes and sizes of the parameter tensors inside the vector of length `dim`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    # Every place in the module that holds a parameter, and which one: several if it is tied.
    slots: tuple[tuple[str, int], ...]

    @property
    def dim(self) -> int:
        """P, the number of parameters."""
        return sum(self.sizes)

    @staticmethod
    def of(module: nn.Module) -> Layout:
        """Return the layout of `module`."""
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        shapes = tuple(tuple(p.shape) for _, p in named)
        sizes = tuple(prod(s) for s in shapes)
        return Layout(tuple(n for n, _ in named), shapes, sizes, tuple(_slots(module, named)))

    def views(self, x: Tensor) -> list[Tensor]:
        """Views of x [P] in the shapes of the parameters; of x [C, P], in [C, *shape]."""
        parts = torch.split(x, list(self.sizes), dim=-1)
        return [part.view((*part.shape[:-1], *s)) for part, s in zip(parts, self.shapes)]

    def named(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Views in the order of the layout by the places of their parameters, for `call`."""
        return {slot: views[i] for slot, i in self.slots}


def call(module: nn.Module, params: Mapping[str, Tensor], inputs: Tensor) -> Any:
    """What a module computes with other parameters, as from `Layout.named`.

    functional_call would find tied parameters itself, but a layer that is registered twice would
    not get its own parameters back.
    """
    return functional_call(module, dict(params), (inputs,), tie_weights=False)


def _slots(
    module: nn.Module, named: Sequence[tuple[str, nn.Parameter]]
) -> Iterator[tuple[str, int]]:
    index = {id(parameter): i for i, (_, parameter) in enumerate(named)}
    for prefix, layer in module.named_modules():
        for key, parameter in layer.named_parameters(prefix, False, remove_duplicate=False):
            if id(parameter) in index:
                yield key, index[id(parameter)]


def flatten(module: nn.Module) -> Tensor:
    """Copy the trainable parameters into a float32 vector [P]."""
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in _trainable(module)]).float()


def own(module: nn.Module, format: torch.memory_format) -> list[Tensor]:
    """Give the trainable parameters float32 memory of their own; returns them.

    format: the memory order of those with four axes (convolutions on images).
    """
    parameters: list[Tensor] = [*_trainable(module)]
    for p in parameters:
        order = format if p.dim() == 4 else torch.contiguous_format
        p.data = p.detach().float().clone(memory_format=order)
    return parameters


def gradient(loss: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a loss, with zeros for parameters that it does not depend on."""
    return torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)


def load_into(module: nn.Module, x: Tensor) -> nn.Module:
    """Write the vector x [P] into the module's trainable parameters; returns the module."""
    with torch.no_grad():
        for view, parameter in zip(Layout.of(module).views(x), _trainable(module)):
            parameter.copy_(view)
    return module


def constants(module: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the module's buffers and frozen parameters, by name."""
    return {name: t.detach().cpu().clone() for name, t in _constants(module).items()}


def load_constants(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Write what `constants` returned into a module with the same ones; returns the module.

    Raises ValueError for a module with others.
    """
    own = _constants(module)
    if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in values.items()}:
        raise ValueError(
            f"its buffers and frozen parameters are {sorted(own)}, not {sorted(values)}, or have "
            "other shapes"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(values[name])
    return module


def _constants(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(module.named_buffers())}


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def sha256(x: Tensor, constants: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of a model: the `model_sha256` of a run.

    It is that of the vector as little-endian float32, followed, if the model has constants, by the
    `digest` of each in the order of their names.
    """
    total = hashlib.sha256(x.detach().cpu().numpy().astype("<f4").tobytes())
    for name, value in sorted((constants or {}).items()):
        total.update(f"{name} {digest(value)}".encode())
    return total.hexdigest()


def digest(value: Tensor) -> str:
    """SHA-256 of dtype, shape and elements of a tensor."""
    dense = value.detach().cpu().to_dense() if value.layout != torch.strided else value.detach()
    flat = torch.view_as_real(dense) if dense.is_complex() else dense
    raw = flat.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode() + raw).hexdigest()


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor over the array's memory.

    Arrays in shared memory are read-only; such a tensor must only be read.
    """
    _skip_read_only_warning()
    return torch.from_numpy(array)


@cache
def _skip_read_only_warning() -> None:
    """Trigger PyTorch's warning about read-only arrays unseen; it is given once per process.

    Suppressing it in every call would take longer than all other work for a tiny client.
    """
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an uninitialized tensor with the dtype and device of `like`."""
    if like.is_cuda:
        return like.new_empty(shape)
    # NumPy asks the operating system for huge pages and torch does not. The first access to fresh
    # memory is most of the cost of an elementwise pass.
    return torch.from_numpy(np.empty(shape, like[:0].numpy().dtype))


def chunked(step: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Apply the elementwise `step(first, *chunks)` to chunks of the columns of `tensors`.

    tensors: [P] or [C, P]; first: the first column of the chunk. Returns the concatenated results,
    bit for bit those of `step(0, *tensors)`. On the CPU the temporaries of `step` then stay in the
    cache.
    """
    dim = tensors[0].shape[-1]
    width = max(64, CHUNK * dim // max(t.numel() for t in tensors))
    if width >= dim or tensors[0].is_cuda:
        return step(0, *tensors)
    results: list[Tensor] = []
    for first in range(0, dim, width):
        parts = step(first, *(t[..., first : first + width] for t in tensors))
        results = results or [empty((*part.shape[:-1], dim), part) for part in parts]
        for result, part in zip(results, parts):
            result[..., first : first + width] = part
    return tuple(results)


def is_finite(x: Tensor) -> bool:
    """Whether x holds neither NaN nor Inf."""
    if not x.is_floating_point() or not x.numel():
        return True
    # A sum takes a quarter of the time of the extremes, but may overflow.
    if isfinite(x.sum()):
        return True
    extremes = torch.stack(torch.aminmax(x)).tolist()  # both are NaN if anything is
    return all(map(isfinite, extremes))
