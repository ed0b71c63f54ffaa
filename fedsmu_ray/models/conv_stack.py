"""Stacks of convolutions, pooling and linear layers, whose gradient is written out: no autograd.

Between small convolutions, autograd and what it does twice take a tenth to a fifth of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsmu_ray.models.stack import (
    ACTIVATIONS,
    does_more,
    gradient_of_logits,
    has_hooked_parameters,
    is_plain,
    leaves,
)
from fedsmu_ray.numerics.parameters import Layout
from fedsmu_ray.objectives.losses import CrossEntropy, Loss

_aten = torch.ops.aten
_FLATTEN = repr(nn.Flatten())


class _Passed(NamedTuple):
    """A layer's input and output, and what else its backward pass needs."""

    x: Tensor
    y: Tensor
    more: Any = None


class _Layer(Protocol):
    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        """Compute the output for x."""

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        """Put the gradients of the layer's parameters into h; returns the one for x, if `wanted`.

        g: the gradient for y.
        """


@dataclass(frozen=True)
class _Convolution:
    weight: int  # places of the parameters in the layout
    bias: int | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        bias = None if self.bias is None else params[self.bias]
        how = self.stride, self.padding, self.dilation, self.groups
        return _Passed(x, F.conv2d(x, params[self.weight], bias, *how))

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        sizes = None if self.bias is None else params[self.bias].shape
        how = self.stride, self.padding, self.dilation, False, (0, 0), self.groups
        below, weight, bias = _aten.convolution_backward(
            g, passed.x, params[self.weight], sizes, *how, (wanted, True, self.bias is not None)
        )
        h[self.weight] = weight
        if self.bias is not None:
            h[self.bias] = bias
        return cast(Tensor, below)


@dataclass(frozen=True)
class _Linear:
    weight: int
    bias: int | None

    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        bias = None if self.bias is None else params[self.bias]
        return _Passed(x, F.linear(x, params[self.weight], bias))

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        h[self.weight] = g.T @ passed.x
        if self.bias is not None:
            h[self.bias] = g.sum(0)
        return g @ params[self.weight]


@dataclass(frozen=True)
class _Activation:
    """In place: what is before it does not need its own output."""

    kind: type[nn.Module]

    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        return _Passed(x, ACTIVATIONS[self.kind][0](x))

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        return ACTIVATIONS[self.kind][1](g, passed.y)


@dataclass(frozen=True)
class _MaxPool:
    how: tuple[Any, ...]  # kernel, stride, padding, dilation, whether to round sizes up

    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        return _Passed(x, *_aten.max_pool2d_with_indices(x, *self.how))

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        backward = _aten.max_pool2d_with_indices_backward
        return cast(Tensor, backward(g, passed.x, *self.how, passed.more))


class _Flatten:
    def forward(self, params: Sequence[Tensor], x: Tensor) -> _Passed:
        return _Passed(x, x.flatten(1))

    def backward(
        self, params: Sequence[Tensor], passed: _Passed, g: Tensor, wanted: bool, h: list[Tensor]
    ) -> Tensor:
        x = passed.x
        return torch.empty_like(x).copy_(g.view(x.shape))  # in the memory order of x


@dataclass(frozen=True)
class ConvStack:
    """A model that is a stack of convolutions, and of linear layers after them."""

    layers: tuple[_Layer, ...]
    loss: Loss = CrossEntropy()

    @staticmethod
    def of(module: nn.Module, loss: Loss = CrossEntropy()) -> ConvStack | None:  # noqa: B008
        """The stack that a module is, or None if it is something else."""
        if has_hooked_parameters(module):
            return None
        layout, layers, flat = Layout.of(module), list[_Layer](), False
        places = dict(layout.slots)
        for name, child in leaves(module):
            layer = _layer(child, name, places, flat)
            first = not layers or isinstance(layers[-1], (_Activation, _Flatten))
            if layer is None or (first and isinstance(layer, _Activation)):
                return None
            layers.append(layer)
            flat = flat or isinstance(layer, _Flatten)
        weighty = [each for each in layers if isinstance(each, (_Convolution, _Linear))]
        used = [
            place for each in weighty for place in (each.weight, each.bias) if place is not None
        ]
        has_all = sorted(used) == list(range(len(layout.names)))  # each of them once
        if not flat or not has_all or not any(isinstance(each, _Convolution) for each in weighty):
            return None
        return ConvStack(tuple(_pooled_first(layers)), loss)

    @torch.no_grad()
    def gradient(
        self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss [] of a batch, and its gradient, like params.

        params: in the layout's order. inputs: [B, ...], which are not changed; targets: [B, ...].
        """
        passed, x = [], inputs
        for layer in self.layers:
            passed.append(layer.forward(params, x))
            x = passed[-1].y
        loss, g = self._loss(x, targets)
        h = list(params)
        for layer, each in zip(self.layers[::-1], passed[::-1]):
            g = layer.backward(params, each, g, each.x is not inputs, h)
        return loss, h

    def _loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [] and its gradient for the outputs [B, n]."""
        if not is_plain(self.loss):
            return self.loss.gradient_of_batch(outputs, targets)
        logarithms = torch.log_softmax(outputs, -1)
        wanted = torch.zeros_like(outputs).scatter_(1, targets[:, None], -1 / len(targets))
        return F.nll_loss(logarithms, targets), gradient_of_logits(logarithms, wanted)


def _layer(child: nn.Module, name: str, places: dict[str, int], flat: bool) -> _Layer | None:
    """What computes as a layer of a module does, if there is something.

    name: the prefix of its parameters; places: of the parameters in the layout. flat: whether its
    input is flat.
    """
    kind, keys = type(child), [name + key for key, _ in child.named_parameters()]
    if does_more(child) or not places.keys() >= set(keys):
        return None
    weight, bias = places.get(f"{name}weight", -1), places.get(f"{name}bias")
    if flat:
        linear = _Linear(weight, bias) if kind is nn.Linear else None
        return linear or (_Activation(kind) if kind in ACTIVATIONS else None)
    if isinstance(child, nn.Conv2d):
        plain = kind is nn.Conv2d and child.padding_mode == "zeros"
        if not plain or isinstance(child.padding, str):
            return None
        return _Convolution(weight, bias, child.stride, child.padding, child.dilation, child.groups)
    if isinstance(child, nn.MaxPool2d):
        how = map(_pair, (child.kernel_size, child.stride, child.padding, child.dilation))
        plain = kind is nn.MaxPool2d and not child.return_indices
        return _MaxPool((*how, child.ceil_mode)) if plain else None
    if kind in ACTIVATIONS:
        return _Activation(kind)
    return _Flatten() if repr(child) == _FLATTEN else None


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _pooled_first(layers: Iterable[_Layer]) -> list[_Layer]:
    """The layers, with pooling before ReLU: the same bits, for fewer numbers."""
    ordered: list[_Layer] = []
    for layer in layers:
        after_relu = ordered and ordered[-1] == _Activation(nn.ReLU)
        ordered.insert(len(ordered) - bool(after_relu and isinstance(layer, _MaxPool)), layer)
    return ordered
