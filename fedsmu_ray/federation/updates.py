"""What a local step does with its gradient.

An update is a value: equal updates do the same, so that a step that was captured on a GPU serves
every round.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import torch
from torch import Tensor

from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.config.optimizer import BETA2
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
        """The pieces of vectors x; they share its memory. One number a client stays as it is."""
        if x.dim() == int(self.together):
            return [x]
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
        return self.scaled(h, torch.where(norm.isfinite(), scale, torch.nan))

    def scaled(self, h: Pieces, factor: Tensor) -> Pieces:
        """Pieces times a number of each client: [R], or [] for one."""
        if not self.together:
            return torch._foreach_mul(h, factor)
        return [g * factor.view(-1, *[1] * (g.dim() - 1)) for g in h]


@dataclass(frozen=True)
class Update:
    """One local step of some models; its own vectors are new in every round (`new`)."""

    lr: float
    clip_norm: float | None
    weight_decay: float = 0.0
    prox: float = 0.0
    corrects: bool = False
    written: ClassVar[int] = 0  # how many of the others are read after the last step: the first

    @property
    def is_plain(self) -> bool:
        """Whether it only subtracts the gradient times the learning rate."""
        return False

    @property
    def keeps(self) -> bool:
        """Whether parameters whose gradient is always zero stay as they are."""
        return not self.weight_decay and not self.corrects

    def new(self, y: Tensor) -> list[Tensor]:
        """Its own vectors before the first step of models y [C, P]."""
        return []

    @abstractmethod
    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """Update the models y in place, from gradients h that it must not change.

        others: further vectors: its own, then those of `gradient`.
        """

    def gradient(self, cut: Cut, y: Pieces, h: Pieces, *terms: Pieces) -> Pieces:
        """The gradient of the local objective, clipped.

        terms: x if there is `prox`, and the correction if any.
        """
        if self.corrects:
            h = torch._foreach_add(h, terms[-1])
        if self.prox:
            h = torch._foreach_add(h, torch._foreach_sub(y, terms[0]), alpha=self.prox)
        return cut.clipped(h, self.clip_norm)


@dataclass(frozen=True)
class Sgd(Update):
    """SGD without momentum; see `GroupSolver.train`."""

    @property
    def is_plain(self) -> bool:
        """See `Update`."""
        terms = self.clip_norm is not None or self.weight_decay or self.prox or self.corrects
        return not terms

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        h = self.gradient(cut, y, h, *others)
        if self.weight_decay:
            h = torch._foreach_add(h, y, alpha=self.weight_decay)
        torch._foreach_add_(y, h, alpha=-self.lr)


@dataclass(frozen=True)
class Momentum(Update):
    """SGD with momentum.

    As in `torch.optim.SGD` without dampening:

        h <- h + weight_decay y;  b <- momentum b + h
        y <- y - lr b, with nesterov y - lr (h + momentum b)
    """

    momentum: float = 0.9
    nesterov: bool = False

    def new(self, y: Tensor) -> list[Tensor]:
        """See `Update`: b."""
        return [torch.zeros_like(y)]

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        buffer, *terms = others
        h = self.gradient(cut, y, h, *terms)
        if self.weight_decay:
            h = torch._foreach_add(h, y, alpha=self.weight_decay)
        torch._foreach_mul_(buffer, self.momentum)
        torch._foreach_add_(buffer, h)
        step = torch._foreach_add(h, buffer, alpha=self.momentum) if self.nesterov else buffer
        torch._foreach_add_(y, step, alpha=-self.lr)


@dataclass(frozen=True)
class Adam(Update):
    """Adam (Kingma and Ba, ICLR 2015), decoupled: AdamW (Loshchilov and Hutter, ICLR 2019).

    As in `torch.optim`; k is the number of the step, from 1.

        h <- h + weight_decay y, or, decoupled, y <- (1 - lr weight_decay) y
        m <- beta1 m + (1 - beta1) h;  v <- beta2 v + (1 - beta2) h^2
        y <- y - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decoupled: bool = False

    def new(self, y: Tensor) -> list[Tensor]:
        """See `Update`: m, v and k."""
        return [torch.zeros_like(y), torch.zeros_like(y), y.new_zeros(len(y))]

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        mean, square, (k,), *terms = others
        h = self.gradient(cut, y, h, *terms)
        if self.weight_decay and self.decoupled:
            torch._foreach_mul_(y, 1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            h = torch._foreach_add(h, y, alpha=self.weight_decay)
        torch._foreach_lerp_(mean, h, 1 - self.beta1)
        torch._foreach_mul_(square, self.beta2)
        torch._foreach_addcmul_(square, h, h, 1 - self.beta2)
        k.add_(1)
        root = cut.scaled(torch._foreach_sqrt(square), _debiased(self.beta2, k).rsqrt())
        torch._foreach_add_(root, self.epsilon)
        step = torch._foreach_div(mean, root)
        torch._foreach_sub_(y, cut.scaled(step, self.lr / _debiased(self.beta1, k)))


def _debiased(beta: float, k: Tensor) -> Tensor:
    """1 - beta^k, without the loss of digits that float32 would have near 0."""
    return -torch.expm1(k * (log(beta) if beta else -inf))


@dataclass(frozen=True)
class Lion(Update):
    """Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023).

    With a decay of the weights themselves:

        w <- sign(beta1 mu + (1 - beta1) h)              torch's sign: 0 at 0
        mu <- beta2 mu + (1 - beta2) h
        y <- (1 - lr weight_decay) y - lr w
    """

    beta1: float = 0.9
    beta2: float = 0.99

    def new(self, y: Tensor) -> list[Tensor]:
        """See `Update`: mu."""
        return [torch.zeros_like(y)]

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        momentum, *terms = others
        w = self._signs(momentum, self.gradient(cut, y, h, *terms))
        if self.weight_decay:
            torch._foreach_mul_(y, 1 - self.lr * self.weight_decay)
        torch._foreach_add_(y, w, alpha=-self.lr)

    def _signs(self, momentum: Pieces, h: Pieces) -> Pieces:
        """The signs w; the momentum is updated."""
        w = torch._foreach_mul(momentum, self.beta1)
        torch._foreach_add_(w, h, alpha=1 - self.beta1)
        torch._foreach_sign_(w)
        torch._foreach_mul_(momentum, self.beta2)
        torch._foreach_add_(momentum, h, alpha=1 - self.beta2)
        return w


@dataclass(frozen=True)
class SummedLion(Lion):
    """The step of `GroupSolver.lion`; others: the momentum, and the sum of signs."""

    written: ClassVar[int] = 2

    @property
    def keeps(self) -> bool:
        """See `Update`: what it returns is whole."""
        return False

    def __call__(self, cut: Cut, y: Pieces, h: Pieces, *others: Pieces) -> None:
        """See `Update`."""
        momentum, signs = others
        w = self._signs(momentum, self.gradient(cut, y, h))
        torch._foreach_add_(signs, w)
        torch._foreach_add_(y, w, alpha=-self.lr)


def update_of(local: LocalConfig, lr: float, prox: float, corrects: bool) -> Update:
    """The step of `local.optimizer` with a learning rate and the terms of a method."""
    optimizer = local.optimizer
    common = (lr, local.clip_norm, local.weight_decay, prox, corrects)
    if optimizer.is_plain:
        return Sgd(*common)
    if optimizer.name == "sgd":
        return Momentum(*common, optimizer.momentum, optimizer.nesterov)
    beta2 = BETA2[optimizer.name] if optimizer.beta2 is None else optimizer.beta2
    if optimizer.name == "lion":
        return Lion(*common, optimizer.beta1, beta2)
    decoupled = optimizer.name == "adamw"
    return Adam(*common, optimizer.beta1, beta2, optimizer.epsilon, decoupled)
