"""Convolutions with a single output position: the part of the kernel that meets the image.

ResNet18 ends in images of 1x1 if it is given 32x32. A 3x3 kernel with padding meets them with its
middle alone, the rest with zeros: so most of its 11 million parameters have no gradient. Their part
is left out of the computation here, which is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsmu_ray.numerics.isolation import isolated
from fedsmu_ray.numerics.parameters import Layout


@dataclass(frozen=True)
class Window:
    """The part of a weight [out, in, H, W] that meets the image."""

    place: int  # of the weight in the layout
    rows: slice
    columns: slice

    def of(self, weight: Tensor) -> Tensor:
        """View of that part, [out, in, h, w]."""
        return weight[:, :, self.rows, self.columns]


class WindowedConv2d(nn.Conv2d):
    """A convolution that computes with a part of its weight, if it is given one."""

    part: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Images [B, in, H, W] to [B, out, 1, 1]."""
        if self.part is None:
            return super().forward(input)
        height, width = self.part.shape[2:]
        met = input[:, :, :height, :width].flatten(1)
        return F.linear(met, self.part.flatten(1), self.bias)[..., None, None]


class Windows:
    """The windows of a module, whose layers can compute with them alone."""

    def __init__(self, module: nn.Module, inputs: Tensor, params: Sequence[Tensor]) -> None:
        """Find them.

        inputs: a batch as the module gets it, [B, ...], of the shape that it always has. params:
        its trainable parameters, in the order of the layout.
        """
        calls: dict[nn.Conv2d, list[tuple[torch.Size, torch.Size]]] = {}

        def note(layer: nn.Conv2d, args: tuple[Any, ...], output: Tensor) -> None:
            calls.setdefault(layer, []).append((args[0].shape, output.shape))

        kinds = nn.Conv2d, WindowedConv2d  # the latter if the module had windows before
        layers = [layer for layer in module.modules() if type(layer) in kinds]
        hooks = [layer.register_forward_hook(note) for layer in layers]
        with torch.no_grad(), isolated(0):
            module(inputs.clone())
        for hook in hooks:
            hook.remove()
        slots = Layout.of(module).slots
        places = [place for _, place in slots]
        found = [(module.get_submodule(key.rpartition(".")[0]), key, i) for key, i in slots]
        self.windows: list[Window] = []
        self.layers: list[WindowedConv2d] = []
        for layer, key, place in found:
            shapes = calls.get(layer, []) if isinstance(layer, nn.Conv2d) else []
            if key.endswith("weight") and places.count(place) == len(shapes) == 1:
                self._add(layer, place, *shapes[0])
        # What the module computes with: parts have memory of their own.
        self.params = list(params)
        for window, layer in zip(self.windows, self.layers):
            part = window.of(layer.weight.detach())
            self.params[window.place] = part.clone(memory_format=torch.contiguous_format)
            self.params[window.place].requires_grad_()

    def _add(self, layer: Any, place: int, input: torch.Size, output: torch.Size) -> None:
        """Note the window of a layer if it is smaller than the kernel."""
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        if not plain or output[2:] != (1, 1) or isinstance(layer.padding, str):
            return
        ends = [min(k, p + n) for k, p, n in zip(layer.kernel_size, layer.padding, input[2:])]
        rows, columns = (slice(p, end) for p, end in zip(layer.padding, ends))
        window = Window(place, rows, columns)
        if window.of(layer.weight).numel() < layer.weight.numel():
            layer.__class__ = WindowedConv2d
            self.windows.append(window)
            self.layers.append(layer)

    def cut(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Pieces of a vector in the shapes of the parameters, weights cut to their windows."""
        pieces = list(pieces)
        for window in self.windows:
            pieces[window.place] = window.of(pieces[window.place])
        return pieces

    def use(self, parts: bool) -> None:
        """Have the layers compute with the parts among `params`, or with all of their weights."""
        for layer, window in zip(self.layers, self.windows):
            layer.part = self.params[window.place] if parts else None
