"""Stacks of linear layers, whose gradient is written out: no autograd, and many models at once.

Between layers of a few hundred units, autograd takes about as long as the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsmu_ray.numerics.parameters import Layout
from fedsmu_ray.objectives.losses import CrossEntropy, Loss

_aten = torch.ops.aten
_Elementwise = Callable[[Tensor], Tensor]
# Activations: in place; and from the gradient for the output, and the output, to the gradient for
# the input.
ACTIVATIONS: dict[type[nn.Module], tuple[_Elementwise, Callable[[Tensor, Tensor], Tensor]]] = {
    nn.ReLU: (torch.relu_, lambda g, y: _aten.threshold_backward(g, y, 0)),
    nn.Tanh: (torch.tanh_, _aten.tanh_backward),
    nn.Sigmoid: (torch.sigmoid_, _aten.sigmoid_backward),
}


@dataclass(frozen=True)
class _Layer:
    """A linear layer and the activation after it, if there is one."""

    weight: int  # places of the parameters in the layout
    bias: int | None
    activation: type[nn.Module] | None = None


@dataclass(frozen=True)
class Stack:
    """C models that are stacks of linear layers; parameters [C, *shape] in the layout's order."""

    layers: tuple[_Layer, ...]
    loss: Loss = CrossEntropy()

    @staticmethod
    def of(module: nn.Module, loss: Loss = CrossEntropy()) -> Stack | None:  # noqa: B008
        """The stack that a module is, or None if it is something else."""
        places = dict(Layout.of(module).slots)
        layers: list[_Layer] = []
        for name, layer in leaves(module):
            kind, last = type(layer), layers[-1] if layers else None
            if does_more(layer):
                return None
            if kind is nn.Linear and all(
                name + key in places for key, _ in layer.named_parameters()
            ):
                layers.append(_Layer(places[f"{name}weight"], places.get(f"{name}bias")))
            elif kind in ACTIVATIONS and last and last.activation is None:
                layers[-1] = replace(last, activation=kind)
            elif last or repr(layer) != repr(nn.Flatten()):
                return None
        used = [layer.weight for layer in layers]
        return Stack(tuple(layers), loss) if layers and len(used) == len(set(used)) else None

    @torch.no_grad()
    def gradient(
        self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor, weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of each model, summed with weights over its own batch, and the gradient.

        inputs: [C, B, ...]; targets: [C, B, ...]; weight: [C, B]. Returns losses [C], and the
        gradient like params.
        """
        wanted = self._wanted(params, targets, weight)
        values = self._values(self._parts(params), inputs)
        losses, slope = self._loss(values[-1], *wanted)
        gradient = list(params)
        for layer, x, g in self._backward(params, values, slope):
            gradient[layer.weight] = torch.bmm(g.mT, x)
            if layer.bias is not None:
                gradient[layer.bias] = g.sum(1)
        return losses, gradient

    def sgd(
        self,
        params: Sequence[Tensor],
        inputs: Tensor,
        targets: Tensor,
        weight: Tensor,
        samples: Sequence[int],
        rate: float,
    ) -> Iterator[Tensor]:
        """Steps that subtract `rate` times the gradient from the parameters, in place.

        Call it with gradients disabled. inputs: [C, K, B, ...] of K steps; targets:
        [C, K, B, ...]; weight: [C, K, B]. samples: the first of the B that each step takes; the
        weights of the others are 0. Yields the losses [C] of every step.

        The gradient is never written to memory, which takes as long as a tenth of the step. What
        does not depend on the parameters is done once for all steps.
        """
        wanted, parts = self._wanted(params, targets, weight), self._parts(params)
        ones = torch.ones_like(weight[:, :1])
        for x, n, *t in zip(inputs.unbind(1), samples, *(w.unbind(1) for w in wanted)):
            values = self._values(parts, x[:, :n])
            losses, slope = self._loss(values[-1], *(each[:, :n] for each in t))
            for layer, below, g in self._backward(params, values, slope):
                params[layer.weight].baddbmm_(g.mT, below, alpha=-rate)
                if layer.bias is not None:
                    params[layer.bias][:, None].baddbmm_(ones[..., :n], g, alpha=-rate)
            yield losses

    def _wanted(
        self, params: Sequence[Tensor], targets: Tensor, weight: Tensor
    ) -> tuple[Tensor, ...]:
        """What `_loss` takes beside the outputs.

        For plain cross-entropy, minus the weights of samples at their classes, 0 at others: [...,
        classes].
        """
        if not is_plain(self.loss):
            return targets, weight
        classes = params[self.layers[-1].weight].shape[1]
        wanted = weight.new_zeros(*targets.shape, classes)
        return (wanted.scatter_(-1, targets[..., None], -weight[..., None]),)

    def _loss(self, outputs: Tensor, *wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The losses [C] for outputs [C, B, n], and the gradient for them."""
        if not is_plain(self.loss):
            return self.loss.gradient(outputs, *wanted)
        logarithms = torch.log_softmax(outputs, -1)
        gradient = gradient_of_logits(logarithms, wanted[0])
        return (logarithms * wanted[0]).sum((1, 2)), gradient

    def _parts(self, params: Sequence[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
        """The weights W^T and biases of every layer, as the forward pass uses them."""
        return [
            (params[r.weight].mT, None if r.bias is None else params[r.bias][:, None])
            for r in self.layers
        ]

    def _backward(
        self, params: Sequence[Tensor], values: list[Tensor], g: Tensor
    ) -> Iterator[tuple[_Layer, Tensor, Tensor]]:
        """Every layer, from the last, with its input x and the gradient for its product x W^T + b.

        values: of `_values`; g: the gradient for what the last layer returns. The parameters of a
        layer may change once it was yielded.
        """
        for layer, x, y in zip(self.layers[::-1], values[-2::-1], values[::-1]):
            if layer.activation is not None:
                g = ACTIVATIONS[layer.activation][1](g, y)
            below = g if x is values[0] else torch.bmm(g, params[layer.weight])
            yield layer, x, g
            g = below

    def _values(
        self, parts: Sequence[tuple[Tensor, Tensor | None]], inputs: Tensor
    ) -> list[Tensor]:
        """The inputs [C, B, n] and the outputs of every layer."""
        values = [inputs.flatten(2)]
        for layer, (weight, bias) in zip(self.layers, parts):
            x = values[-1]
            y = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
            values.append(ACTIVATIONS[layer.activation][0](y) if layer.activation else y)
        return values


def is_plain(loss: Loss) -> bool:
    """Whether the gradient of a loss for the outputs is written out, by `gradient_of_logits`."""
    return isinstance(loss, CrossEntropy) and loss.is_plain


def gradient_of_logits(logarithms: Tensor, wanted: Tensor) -> Tensor:
    """The gradient of the cross-entropy for the logits, [..., B, classes].

    logarithms: their log-softmax; wanted: minus the weights of samples at their classes, else 0.
    """
    gradient: Tensor = _aten._log_softmax_backward_data(wanted, logarithms, -1, logarithms.dtype)
    return gradient


def leaves(layer: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers inside nested `Sequential`s, in order, with the first part of their names."""
    if type(layer) is not nn.Sequential or does_more(layer):
        yield name, layer
        return
    for key, child in layer._modules.items():
        assert child is not None
        yield from leaves(child, f"{name}{key}.")


def has_hooked_parameters(module: nn.Module) -> bool:
    """Whether hooks change gradients of parameters."""
    return any(p._backward_hooks for p in module.parameters())


def does_more(layer: nn.Module) -> bool:
    """Whether calling a layer does more than its class says."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)
