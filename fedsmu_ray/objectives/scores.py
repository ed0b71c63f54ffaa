"""Sums over held-out samples, from which loss, accuracy and further metrics are computed.

Samples are evaluated in slices by several processes. What is added up (numbers of samples, or all
outputs) does not depend on who has evaluated which slice, so the metrics are those of the whole
set.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.losses import Loss
from fedsmu_ray.objectives.metrics import EVALUATION_METRICS
from fedsmu_ray.objectives.targets import Targets

log = logging.getLogger(__name__)

State = Mapping[str, NDArray[Any] | list[NDArray[Any]]]  # of one metric


class Score(NamedTuple):
    """What an evaluation of some samples adds up."""

    correct: int  # right decisions; one for each sample, position or label
    decisions: int  # 0 for a task without any
    loss: float  # weighted sum
    weight: float  # sum of the weights in it
    states: Mapping[str, State] = {}  # of further metrics, by their names


class Scores:
    """Adds up what the batches of an evaluation give, on the device that computes them."""

    def __init__(
        self,
        loss: Loss,
        kind: Targets,
        count: int,
        metrics: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        """kind: of the targets. count: of classes, labels or values. metrics: further ones.

        Raises ConfigError if torchmetrics is missing, or a metric is not for such targets.
        """
        self.loss, self.kind = loss, kind
        self.ignored = getattr(loss, "ignore_index", -100)
        self.metrics = {
            name: _metric(name, kind, count, self.ignored).to(device) for name in metrics
        }
        self._sums: list[Sequence[Tensor | int]] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs [B, ...], targets [B, ...]."""
        self._sums.append((*self._hits(outputs, targets), *self.loss.sums(outputs, targets)))
        for name, metric in self.metrics.items():
            metric.update(*self._arguments(name, outputs, targets))

    def result(self) -> Score:
        """The sums of all batches; a GPU is waited for only here."""
        columns = [_numbers(column) for column in zip(*self._sums)]
        correct, decisions, loss, weight = (sum(column) for column in columns)
        states = {name: _exported(metric) for name, metric in self.metrics.items()}
        return Score(int(correct), int(decisions), loss, weight, states)

    def totals(self, parts: Sequence[Score]) -> dict[str, float]:
        """The values over all samples, by name: `loss`, `accuracy` if there is one, and metrics.

        parts: in the order of their samples; their states are added to the metrics of this one.
        """
        found = {"loss": _ratio(sum(p.loss for p in parts), sum(p.weight for p in parts))}
        if decisions := sum(part.decisions for part in parts):
            found["accuracy"] = sum(part.correct for part in parts) / decisions
        for name, metric in self.metrics.items():
            for part in parts:
                metric.merge_state(_imported(part.states[name]))
            found[name] = _computed(name, metric)
        return found

    def _hits(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor | int, Tensor | int]:
        """How many decisions are right, and how many there are."""
        if self.kind == "values":
            return 0, 0
        if self.kind == "multi_hot":
            return ((outputs > 0) == (targets > 0.5)).sum(), targets.numel()
        right = outputs.argmax(-1) == targets
        if self.kind == "classes":
            return right.sum(), len(targets)
        counted = targets != self.ignored
        return (right & counted).sum(), counted.sum()

    def _arguments(self, name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A batch in the form that a metric of torchmetrics takes."""
        if self.kind == "tokens" and name != "perplexity":
            return outputs.flatten(0, 1), targets.flatten()
        if self.kind == "multi_hot":
            return outputs.sigmoid(), targets.long()
        if self.kind == "classes":
            return outputs.softmax(-1), targets
        return outputs, targets


def _numbers(column: Sequence[Tensor | int]) -> list[float]:
    tensors = [x for x in column if isinstance(x, Tensor)]
    return torch.stack(tensors).tolist() if tensors else list(column)  # type: ignore[arg-type]


def _ratio(total: float, weight: float) -> float:
    return total / weight if weight else float("nan")


def _metric(name: str, kind: Targets, count: int, ignored: int) -> Any:
    """A new metric of torchmetrics, for targets of a kind."""
    entry = EVALUATION_METRICS[name]
    path = entry.torchmetrics.get(kind)
    if path is None:
        able = [n for n, other in EVALUATION_METRICS.items() if kind in other.torchmetrics]
        raise ConfigError(
            [
                f"task.metrics: {name} is not for targets of this kind ({kind}); there are "
                f"{', '.join(able)}"
            ]
        )
    module, _, cls = path.rpartition(".")
    options: dict[str, object] = dict(entry.options)
    if module == "classification":
        options |= {"num_labels" if kind == "multi_hot" else "num_classes": count}
        options["validate_args"] = False
    if kind == "tokens":
        options["ignore_index"] = ignored
    try:
        library = importlib.import_module(f"torchmetrics.{module}")
    except ImportError as error:
        raise ConfigError(
            [f"task.metrics: {name} needs torchmetrics ({error}); pip install torchmetrics"]
        ) from None
    metric = getattr(library, cls)(**options)
    # Sums of floats; what counts stays whole.
    return metric if module == "classification" else metric.set_dtype(torch.float64)


def _computed(name: str, metric: Any) -> float:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "The ``compute`` method of metric")  # states are merged
        value = float(metric.compute())
    for warning in told:
        _tell(name, str(warning.message))
    return value


@cache
def _tell(name: str, message: str) -> None:
    """Log what torchmetrics warns about once, not at each evaluation."""
    log.warning("task.metrics: %s: %s", name, message)


def _exported(metric: Any) -> State:
    return {
        key: [each.cpu().numpy() for each in value]
        if isinstance(value, list)
        else value.cpu().numpy()
        for key, value in metric.metric_state.items()
    }


def _imported(state: State) -> dict[str, Tensor | list[Tensor]]:
    return {
        key: [torch.from_numpy(each) for each in value]
        if isinstance(value, list)
        else torch.from_numpy(np.asarray(value))
        for key, value in state.items()
    }
