"""What a local step does with its gradient.

An update is a value: equal updates do the same, so that a step that was captured on a GPU serves
every round.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedsmu_ray.models.batched import Pieces
from fedsmu_ray.models.windows import Windows
from fedsmu_ray.numerics.parameters import Layout


@dataclass(frozen=True)
class Cut:
    """How the vectors of an update are cut into pieces, over which it goes one by one.

    layout: of a model. together: whether vectors are [R, P], of R clients, or [P], of one.
    is_whole: whether they stay whole: on a GPU an operation on one piece is one launch. windows: to
    which weights are cut, if any.
    """

    layout: Layout
    together: bool
    is_whole: bool
    windows: Windows | None = None

    def pieces(self, x: Tensor) -> list[Tensor]:
        """The pieces of vectors x; they share its memory."""
        pieces = [x] if self.is_whole else self.layout.views(x)
        return self.windows.cut(pieces) if self.windows else pieces

    def gradient(self, h: Pieces) -> Pieces:
        """The pieces of a gradient that is in the shapes of the parameters."""
        return [torch.cat([g.flatten(1) for g in h], 1)] if self.is_whole else h

    def clipped(self, h: Pieces, limit: float | None) -> Pieces:
        """Gradients whose global norm, that of each client, is at most `limit`."""
        if limit is None:
            return h
        if self.together:
            parts = self.layout.views(h[0]) if self.is_whole else h
            norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in parts]
        else:
            norms = [*torch._foreach_norm(h)]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        scale = (limit / (norm + 1e-6)).clamp(max=1)
        # A norm that float32 does not hold would make the scale, and so the step, 0.
        scale = torch.where(norm.isfinite(), scale, torch.nan)
        if not self.together:
            return torch._foreach_mul(h, scale)
        return [g * scale.view(-1, *[1] * (g.dim() - 1)) for g in h]


class Update(Hashable, Protocol):
    """One local step of some models."""

    @property
    def is_plain(self) -> bool:
        """Whether it only subtracts the gradient times the learning rate."""

    @property
    def keeps(self) -> bool:
        """Whether parameters whose gradient is zero stay as they are."""

    @property
    def written(self) -> int:
        """How many of the others it updates: the first ones."""

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """Update the models y in place, from gradients h that it must not change.

        others: further vectors.
        """


@dataclass(frozen=True)
class Sgd:
    """The step of `GroupSolver.sgd`; others: x if there is `prox`, and the correction if any."""

    lr: float
    clip_norm: float | None
    weight_decay: float
    prox: float
    corrects: bool
    written = 0

    @property
    def is_plain(self) -> bool:
        """See `Update`."""
        terms = self.clip_norm is not None or self.weight_decay or self.prox or self.corrects
        return not terms

    @property
    def keeps(self) -> bool:
        """See `Update`."""
        return not self.weight_decay and not self.corrects

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        if self.corrects:
            h = torch._foreach_add(h, others[-1])
        if self.prox:
            h = torch._foreach_add(h, torch._foreach_sub(y, others[0]), alpha=self.prox)
        h = cut.clipped(h, self.clip_norm)
        if self.weight_decay:
            h = torch._foreach_add(h, y, alpha=self.weight_decay)
        torch._foreach_add_(y, h, alpha=-self.lr)


@dataclass(frozen=True)
class Lion:
    """The step of `GroupSolver.lion`; others: the momentum, and the sum of signs."""

    lr: float
    clip_norm: float | None
    beta1: float
    beta2: float
    is_plain, keeps, written = False, False, 2

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        momentum, signs = others
        h = cut.clipped(h, self.clip_norm)
        w = torch._foreach_mul(momentum, self.beta1)
        torch._foreach_add_(w, h, alpha=1 - self.beta1)
        torch._foreach_sign_(w)
        torch._foreach_mul_(momentum, self.beta2)
        torch._foreach_add_(momentum, h, alpha=1 - self.beta2)
        torch._foreach_add_(signs, w)
        torch._foreach_add_(y, w, alpha=-self.lr)
