"""The losses that local training minimizes and evaluation measures.

A loss of a batch is a weighted mean over its samples. So the batches of several clients can be
padded to one size and trained in one computation, and a loss of a test set is the same however its
samples are shared out.
"""

# ruff: noqa: D102 - the hooks of losses are documented in `Loss`

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsmu_ray.objectives.targets import Targets

SMALLEST = 1e-30  # weight of a batch, so that one in which nothing counts has the loss 0, not NaN


@dataclass(frozen=True)
class Loss(ABC):
    """A loss: the mean over samples, each with its weight (by default 1)."""

    targets: ClassVar[Targets | None]  # what it takes; None: anything

    @abstractmethod
    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weighted losses of samples, [N], and their weights, [N] (None: each has weight 1).

        outputs: [N, ...]; targets: [N, ...].
        """

    @property
    def has_terms(self) -> bool:
        """Whether it is a mean over samples, so that clients can train in one computation."""
        return True

    def mean(self, outputs: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """The losses [C] of C batches.

        outputs: [C, B, ...]; targets: [C, B, ...]. shares: [C, B], which sum to 1 for each batch: 0
        for samples that only pad it.
        """
        losses, weights = self.terms(outputs.flatten(0, 1), targets.flatten(0, 1))
        total = (losses.view(shares.shape) * shares).sum(-1)
        if weights is None:
            return total
        return total / (weights.view(shares.shape) * shares).sum(-1).clamp_min(SMALLEST)

    def of_batch(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss [] of one batch."""
        losses, weights = self.terms(outputs, targets)
        return (
            losses.mean() if weights is None else losses.sum() / weights.sum().clamp_min(SMALLEST)
        )

    def sums(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """Sums over samples: of the weighted losses, and of the weights, both []."""
        losses, weights = self.terms(outputs, targets)
        return losses.sum(), len(losses) if weights is None else weights.sum()

    def gradient(self, outputs: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The losses [C] of C batches, as `mean` has them, and the gradient like outputs."""
        return _with_gradient(outputs, lambda y: self.mean(y, targets, shares))

    def gradient_of_batch(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [] of one batch, and the gradient like outputs."""
        return _with_gradient(outputs, lambda y: self.of_batch(y, targets))


def _with_gradient(outputs: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        outputs = outputs.detach().requires_grad_()
        losses = loss(outputs)
        (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), gradient


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of logits [N, classes] for classes [N], as in `torch.nn.CrossEntropyLoss`.

    With class weights the mean is weighted: it is divided by the sum of the weights of the samples'
    classes.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    targets: ClassVar[Targets | None] = "classes"

    @property
    def is_plain(self) -> bool:
        """Whether it has no options: its gradient is written out where models are stacks."""
        return not self.label_smoothing and self.class_weights is None

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        weights = self._weights(outputs)
        losses = F.cross_entropy(
            outputs, targets, weights, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses, None if weights is None else weights[targets]

    def of_batch(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = self._weights(outputs)
        return F.cross_entropy(outputs, targets, weights, label_smoothing=self.label_smoothing)

    def sums(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        if not self.is_plain:
            return super().sums(outputs, targets)
        return F.cross_entropy(outputs, targets, reduction="sum"), len(targets)

    def _weights(self, outputs: Tensor) -> Tensor | None:
        return None if self.class_weights is None else outputs.new_tensor(self.class_weights)


@dataclass(frozen=True)
class NextToken(Loss):
    """Mean cross-entropy over all positions but those whose target is `ignore_index`.

    Logits are [N, T, symbols], targets [N, T].
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    targets: ClassVar[Targets | None] = "tokens"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        losses = F.cross_entropy(
            outputs.flatten(0, 1),
            targets.flatten(),
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        counted = (targets != self.ignore_index).sum(-1).to(losses.dtype)
        return losses.view(targets.shape).sum(-1), counted


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Mean over L labels of the binary cross-entropy of logits [N, L] for zeros and ones [N, L]."""

    targets: ClassVar[Targets | None] = "multi_hot"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return losses.flatten(1).mean(-1), None


@dataclass(frozen=True)
class SquaredError(Loss):
    """Mean squared error of outputs [N, K] for values [N, K]."""

    targets: ClassVar[Targets | None] = "values"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.mse_loss(outputs, targets, reduction="none").flatten(1).mean(-1), None


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """Mean absolute error of outputs [N, K] for values [N, K]."""

    targets: ClassVar[Targets | None] = "values"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.l1_loss(outputs, targets, reduction="none").flatten(1).mean(-1), None


@dataclass(frozen=True)
class Huber(Loss):
    """Mean Huber loss of outputs [N, K] for values [N, K]: squared up to `delta`, then linear."""

    delta: float = 1.0
    targets: ClassVar[Targets | None] = "values"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        losses = F.huber_loss(outputs, targets, reduction="none", delta=self.delta)
        return losses.flatten(1).mean(-1), None


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "next_token": NextToken,
    "bce_with_logits": BinaryCrossEntropy,
    "mse": SquaredError,
    "l1": AbsoluteError,
    "huber": Huber,
}
