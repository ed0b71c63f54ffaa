"""Stacks of linear layers, whose gradient is written out: no autograd, and many models at once.

Between layers of a few hundred units, autograd takes about as long as the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsmu_ray.numerics.parameters import Layout

_aten = torch.ops.aten
# Activations: from the gradient for the output, and the output, to the gradient for the input.
_ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda g, y: _aten.threshold_backward(g, y, 0),
    nn.Tanh: _aten.tanh_backward,
    nn.Sigmoid: _aten.sigmoid_backward,
}


@dataclass(frozen=True)
class _Layer:
    """A linear layer and the activation after it, if there is one."""

    weight: int  # places of the parameters in the layout
    bias: int | None
    activation: nn.Module | None = None


@dataclass(frozen=True)
class Stack:
    """C models that are stacks of linear layers; parameters [C, *shape] in the layout's order."""

    layers: tuple[_Layer, ...]

    @staticmethod
    def of(module: nn.Module) -> Stack | None:
        """The stack that a module is, or None if it is something else."""
        places = dict(Layout.of(module).slots)
        layers: list[_Layer] = []
        for name, layer in _leaves(module):
            kind, last = type(layer), layers[-1] if layers else None
            if _does_more(layer):
                return None
            if kind is nn.Linear and all(
                name + key in places for key, _ in layer.named_parameters()
            ):
                layers.append(_Layer(places[f"{name}weight"], places.get(f"{name}bias")))
            elif kind in _ACTIVATIONS and last and last.activation is None:
                layers[-1] = replace(last, activation=layer)
            elif last or repr(layer) != repr(nn.Flatten()):
                return None
        used = [layer.weight for layer in layers]
        return Stack(tuple(layers)) if layers and len(used) == len(set(used)) else None

    @torch.no_grad()
    def gradient(
        self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor, weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross-entropy of each model, summed with weights over its own batch, and the gradient.

        inputs: [C, B, ...]; targets, weight: [C, B]. Returns losses [C], and the gradient like
        params.
        """
        values = self._values(params, inputs)
        losses, of_logits = _loss(values[-1], targets, weight)
        gradient = list(params)
        for layer, x, g in self._backward(params, values, of_logits):
            gradient[layer.weight] = torch.bmm(g.mT, x)
            if layer.bias is not None:
                gradient[layer.bias] = g.sum(1)
        return losses, gradient

    @torch.no_grad()
    def sgd_step(
        self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor, weight: Tensor, rate: float
    ) -> Tensor:
        """Subtract `rate` times the gradient from the parameters in place; returns losses [C].

        The gradient is never written to memory, which takes as long as a tenth of the step.
        """
        values = self._values(params, inputs)
        losses, of_logits = _loss(values[-1], targets, weight)
        for layer, x, g in self._backward(params, values, of_logits):
            params[layer.weight].baddbmm_(g.mT, x, alpha=-rate)
            if layer.bias is not None:
                params[layer.bias].sub_(g.sum(1), alpha=rate)
        return losses

    def _backward(
        self, params: Sequence[Tensor], values: list[Tensor], g: Tensor
    ) -> Iterator[tuple[_Layer, Tensor, Tensor]]:
        """Every layer, from the last, with its input x and the gradient for its product x W^T + b.

        g: the gradient for the logits. The parameters of a layer may change once it was yielded.
        """
        for layer, x, y in zip(self.layers[::-1], values[-2::-1], values[::-1]):
            if layer.activation is not None:
                g = _ACTIVATIONS[type(layer.activation)](g, y)
            below = g if x is values[0] else torch.bmm(g, params[layer.weight])
            yield layer, x, g
            g = below

    def _values(self, params: Sequence[Tensor], inputs: Tensor) -> list[Tensor]:
        """The inputs [C, B, n], and the outputs of every layer; the last are the logits."""
        values = [inputs.flatten(2)]
        for layer in self.layers:
            weight = params[layer.weight].mT
            if layer.bias is None:
                y = torch.bmm(values[-1], weight)
            else:
                y = torch.baddbmm(params[layer.bias][:, None], values[-1], weight)
            values.append(layer.activation(y) if layer.activation is not None else y)
        return values


def _loss(outputs: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy [C], and its gradient for the logits [C, B, classes]."""
    logits = torch.log_softmax(outputs, -1)
    g = torch.zeros_like(logits).scatter_(-1, targets[..., None], -weight[..., None])
    losses = (logits * g).sum((1, 2))
    return losses, _aten._log_softmax_backward_data(g, logits, -1, logits.dtype)


def _leaves(layer: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers inside nested `Sequential`s, in order, with the first part of their names."""
    if type(layer) is not nn.Sequential or _does_more(layer):
        yield name, layer
        return
    for key, child in layer._modules.items():
        assert child is not None
        yield from _leaves(child, f"{name}{key}.")


def _does_more(layer: nn.Module) -> bool:
    """Whether calling a layer does more than its class says."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)
