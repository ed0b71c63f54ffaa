"""A loss of the user's own, or any of PyTorch's: `task.loss: import:<module>:<function>`."""

# ruff: noqa: D102 - the hooks of losses are documented in `losses.Loss`

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import vmap

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.losses import Loss
from fedsmu_ray.objectives.targets import Targets

log = logging.getLogger(__name__)

KEY = "task.loss"


@dataclass(frozen=True)
class ImportedLoss(Loss):
    """A function (outputs [B, ...], targets [B, ...]) of the user's.

    It returns the losses of the samples, [B, ...], or their mean, []. What `checked` finds out
    about it says how it is used; until then it is a mean that cannot be split into terms.
    """

    targets: ClassVar[Targets | None] = None

    name: str
    function: Callable[..., Any] = field(compare=False)
    options: tuple[tuple[str, Any], ...] = ()
    # How `function` gives the losses of samples: itself, called with one sample at a time, or not.
    samples: str = "no"

    @staticmethod
    def load(name: str, options: Mapping[str, Any]) -> ImportedLoss:
        """The loss that `task.loss` and `task.options` stand for; raises ConfigError.

        A class is instantiated with the options (`import:torch.nn:SmoothL1Loss`), a function gets
        them in every call.
        """
        found = plugins.load(KEY, name)
        if inspect.isclass(found):
            function = plugins.call(KEY, name, found, **options)
            if not callable(function):
                raise ConfigError(
                    [f"{KEY} = {name}: its instances cannot be called with outputs and targets"]
                )
        else:
            function = partial(found, **options) if options else found
        return ImportedLoss(name, function, tuple(sorted(options.items(), key=str)))

    def checked(self, outputs: Tensor, targets: Tensor) -> ImportedLoss:
        """The same loss, with what is found out on a few samples; raises ConfigError.

        A mean that is the mean of what the function returns for single samples is computed by them,
        so that clients can be trained together.
        """
        where = f"{KEY} = {self.name}"
        cure = "it must take outputs and targets of a batch and return its loss"
        with plugins.reported(where, cure), torch.no_grad():
            found = self.function(outputs, targets)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError([f"{where}: it returned a {kind}; {cure} as a tensor of floats"])
        if found.dim() and len(found) == len(targets):
            return replace(self, samples="itself")
        if found.dim():
            raise ConfigError(
                [
                    f"{where}: it returned {list(found.shape)} for a batch of {len(targets)}; it "
                    f"must return its losses, [{len(targets)}, ...], or their mean, []"
                ]
            )
        one_by_one = replace(self, samples="vmap")
        try:
            with torch.no_grad():
                terms = one_by_one.terms(outputs, targets)[0]
            if torch.allclose(terms.mean(), found, rtol=1e-4, atol=1e-6):
                return one_by_one
        except Exception as error:
            log.debug("%s cannot be computed sample by sample: %s", where, error)
        log.warning(
            "%s: no mean over samples that torch.func.vmap can compute, so clients are trained one "
            "by one, and a test loss is a mean over batches",
            where,
        )
        return self

    @property
    def has_terms(self) -> bool:
        return self.samples != "no"

    def terms(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.samples == "itself":
            return self.function(outputs, targets).reshape(len(targets), -1).mean(-1), None
        assert self.samples == "vmap", "the loss is no mean over samples"
        single = vmap(lambda output, target: self.function(output[None], target[None]))
        losses: Tensor = single(outputs, targets)
        return losses, None

    def of_batch(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.function(outputs, targets)
        return loss.mean() if self.samples == "itself" else loss

    def sums(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        return self.of_batch(outputs, targets) * len(targets), len(targets)
