"""The keys of `task`: what is learned, and how models are judged."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from pydantic import Field

from fedsmu_ray import plugins
from fedsmu_ray.config.numbers import PositiveNumber
from fedsmu_ray.config.plain_data import format_value
from fedsmu_ray.config.unread import unread_keys
from fedsmu_ray.objectives.imported import ImportedLoss
from fedsmu_ray.objectives.losses import LOSSES, Loss
from fedsmu_ray.objectives.metrics import EVALUATION_METRICS

LOSS_NAMES: dict[str, type[Loss]] = {
    **LOSSES,
    "import:<package.module>:<function>": ImportedLoss,
}
# Options of losses, which are keys of the section.
READ = {name: [f.name for f in fields(cls)] for name, cls in LOSSES.items()} | {
    "import:": ["options"]
}


@dataclass(frozen=True)
class TaskConfig:
    """What is learned: the loss of local training and evaluation."""

    loss: Annotated[
        str,
        Field(
            description="loss of training and evaluation; as import: a function or class of "
            "outputs and targets, as in import:torch.nn:SmoothL1Loss"
        ),
    ] = "cross_entropy"
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of a target that all classes get alike")
    ] = 0.0
    class_weights: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...] | None,
        Field(description="weight of each class (cross_entropy); null: all 1"),
    ] = None
    ignore_index: Annotated[
        int, Field(description="target of positions that do not count (next_token)")
    ] = -100
    delta: Annotated[
        PositiveNumber, Field(description="error up to which the loss is squared (huber)")
    ] = 1.0
    options: Annotated[
        Mapping[str, Any], Field(description="keyword arguments of an imported loss")
    ] = field(default_factory=dict)
    output: Annotated[
        str | int | None,
        Field(
            description="which output is the one for the loss, of a model that returns several: "
            "its name or position; null: the model returns one tensor"
        ),
    ] = None

    metrics: Annotated[
        tuple[str, ...],
        Field(
            description="metrics of evaluation beside the loss and, of a task that has one, "
            "accuracy, from torchmetrics: " + ", ".join(EVALUATION_METRICS)
        ),
    ] = ()

    @property
    def has_accuracy(self) -> bool:
        """Whether accuracy is sure to be measured."""
        return bool(self.may_have_accuracy)

    @property
    def may_have_accuracy(self) -> bool | None:
        """Whether accuracy is measured; None if only the data tells."""
        return LOSSES[self.loss].targets != "values" if self.loss in LOSSES else None

    def judged(self, validation: float) -> str:
        """The metric that is shown of a model: its accuracy, or the loss of a task without one.

        validation: share of the samples that are for it.
        """
        return f"{'val' if validation else 'test'}/{'accuracy' if self.has_accuracy else 'loss'}"

    def load(self) -> None:
        """Import the user's loss, so that it is part of the pickle; raises ConfigError."""
        if self.loss.startswith("import:"):
            self.build_loss()

    def build_loss(self) -> Loss:
        """The loss with its options; raises ConfigError if it cannot be imported."""
        if self.loss.startswith("import:"):
            return plugins.kept(self, lambda: ImportedLoss.load(self.loss, self.options))
        cls = LOSSES[self.loss]
        return cls(**{f.name: getattr(self, f.name) for f in fields(cls)})


def check_metrics(task: TaskConfig) -> Iterator[str]:
    """A problem for each metric that there is not, or is named twice."""
    for i, name in enumerate(task.metrics):
        if name in ("accuracy", "loss"):
            yield f"task.metrics[{i}] = {name}: it is always measured, if it can be; remove it"
        elif name not in EVALUATION_METRICS:
            close = difflib.get_close_matches(name, EVALUATION_METRICS, n=1, cutoff=0.4)
            meant = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(EVALUATION_METRICS)
            yield f"task.metrics[{i}] = {format_value(name)}: must be one of {known}{meant}"
        elif name in task.metrics[:i]:
            yield f"task.metrics[{i}] = {name}: named twice; remove one"


def check_options(task: TaskConfig) -> Iterator[str]:
    """A problem for each option that the loss does not have."""
    return unread_keys("task", task, "loss", READ, task.loss if task.loss in LOSSES else "import:")
