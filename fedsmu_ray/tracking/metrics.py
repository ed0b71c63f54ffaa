"""The one list of what is measured and tracked: names, units, and which values are final and best.

To add a metric, give `federation.records.Record` a field, set it where it is measured, and add a
row here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsmu_ray.objectives.metrics import EVALUATION_METRICS, Direction


@dataclass(frozen=True)
class Metric:
    """One tracked quantity of a round."""

    name: str  # in the tracker
    field: str  # of a record; also its key in the summary of a run
    unit: str
    meaning: str
    direction: Direction | None = None  # of improvement; a sweep may optimize it
    final: bool = False  # the last value is part of the summary and tracked as `final/<field>`
    # The best value and its round are too, as `best/<field>` and `best/round`, of the first of
    # JUDGED that is measured.
    best: bool = False
    omit_zero: bool = False  # tracked only from the first value that is not 0
    of_task: bool = False  # measured if `task.metrics` or `evaluation` asks for it

    def raw(self, record: Any) -> Any:
        """The field of a record, or the entry in its scores."""
        return record.scores.get(self.name) if self.of_task else getattr(record, self.field)

    def value(self, record: Any) -> float | None:
        """The value in a record, or None where it was not measured."""
        value = self.raw(record)
        return None if value is None or (self.omit_zero and not value) else float(value)


GENERAL = (
    Metric(
        "test/accuracy",
        "test_accuracy",
        "0 to 1",
        "share of right decisions of the server's model on the test set: one for each sample, "
        "or for each of its labels or tokens",
        direction="max",
        final=True,
        best=True,
    ),
    Metric(
        "test/loss",
        "test_loss",
        "nats",
        "mean loss of the server's model on the test set",
        direction="min",
        final=True,
        best=True,
    ),
    Metric(
        "val/accuracy",
        "val_accuracy",
        "0 to 1",
        "share of right decisions of the server's model on the validation samples",
        direction="max",
        final=True,
        best=True,
    ),
    Metric(
        "val/loss",
        "val_loss",
        "nats",
        "mean loss of the server's model on the validation samples",
        direction="min",
        final=True,
        best=True,
    ),
    Metric(
        "train/loss",
        "train_loss",
        "nats",
        "mean over the participants of their mean local training loss",
        direction="min",
        final=True,
    ),
    Metric(
        "comm/uplink_bytes",
        "uplink_bytes",
        "bytes",
        "uploaded by all clients so far",
        direction="min",
        final=True,
    ),
    Metric(
        "comm/downlink_bytes",
        "downlink_bytes",
        "bytes",
        "downloaded by all clients so far",
        direction="min",
        final=True,
    ),
    Metric("time/round_s", "seconds", "seconds", "wall time of the round"),
    Metric(
        "mu/upload",
        "uniformity",
        "1/n to 1",
        "magnitude uniformity of the uploads: Jain's index, averaged over coordinates",
    ),
    Metric(
        "clients/dropped",
        "dropped",
        "clients",
        "sampled clients without a usable upload so far",
        omit_zero=True,
    ),
    Metric(
        "clients/retried",
        "retried",
        "clients",
        "clients that were trained again after a failure so far, each time counted",
        omit_zero=True,
    ),
)
OF_TASK = tuple(
    Metric(
        f"{part}/{name}",
        f"{part}_{name}",
        "0 to 1" if metric.is_share else "number",
        f"{metric.meaning}, on the {samples}",
        direction=metric.direction,
        final=True,
        of_task=True,
    )
    for part, samples in (("test", "test set"), ("val", "validation samples"))
    for name, metric in EVALUATION_METRICS.items()
)
# Statistics over the clients of `evaluation.clients`: the end of a metric's name, its unit, what is
# told, and the direction of improvement. None: those of the values.
_STATISTICS: tuple[tuple[str, str | None, str, Direction | None], ...] = (
    ("", None, "mean", None),
    ("_worst_decile", None, "mean of the worst tenth (at least one)", None),
    ("_variance", "squared", "variance", "min"),
    ("_jain", "1/n to 1", "Jain's index (1: all are equal)", "max"),
)
_VALUES: tuple[tuple[str, str, Direction], ...] = (
    ("accuracy", "0 to 1", "max"),
    ("loss", "nats", "min"),
)
OF_CLIENTS = {
    f"clients/{kind}{value}{end}": Metric(
        f"clients/{kind}{value}{end}",
        f"clients_{kind}{value}{end}",
        unit or own_unit,
        f"{meaning} over clients of the {value} of the server's model{tuned} on the samples that "
        "a client holds out",
        direction=direction or own_direction,
        final=True,
        of_task=True,
    )
    for kind, tuned in (("", ""), ("personalised_", ", fine-tuned by the client,"))
    for value, own_unit, own_direction in _VALUES
    for end, unit, meaning, direction in _STATISTICS
}
METRICS = (*GENERAL, *OF_TASK, *OF_CLIENTS.values())
# Accuracy (or the loss of a task without one) once more, with kilobytes as its steps, for charts
# over bytes with a logarithmic axis: what follows its name -> the metrics whose sum it is over.
BY_BYTES = {
    "_by_upload_kB": ("comm/uplink_bytes",),
    "_by_total_kB": ("comm/uplink_bytes", "comm/downlink_bytes"),
}
ACCURACIES = ("val/accuracy", "test/accuracy")  # by which models are judged: the first there is
# What is shown of a model: the accuracy, or the loss of a task without one; the first there is.
JUDGED = ("val/accuracy", "val/loss", "test/accuracy", "test/loss")
# Values of `tune.metric`, with the direction of improvement.
SWEEPABLE = {metric.name: metric.direction for metric in METRICS if metric.direction}


# Those by which a run may end (`federation.stop`): bytes only ever grow.
STOPPING = [metric.name for metric in METRICS if metric.direction and metric.unit != "bytes"]


# What it takes to reach an accuracy: the end of a metric's name, unit and meaning.
NEEDS = {
    "rounds": ("rounds", "the first evaluated round with"),
    "uplink_bytes": ("bytes", "uploaded by all clients up to the first evaluated round with"),
    "total_bytes": ("bytes", "uploaded and downloaded up to the first evaluated round with"),
    "seconds": ("seconds", "wall time of the rounds up to the first evaluated one with"),
}
TARGET = "target/"  # begins their names


def target_metrics(targets: Iterable[float]) -> list[Metric]:
    """The metrics of reaching accuracies (`federation.targets`), known only when one is reached.

    They are no fields of a record, but keys of the summary of a run, such as `rounds_to_0.8`.
    """
    return [
        Metric(
            f"{TARGET}{target:g}/{need}",
            needs_field(need, target),
            unit,
            f"{meaning} {100 * target:g} % accuracy",
            direction="min",
            final=True,
        )
        for target in targets
        for need, (unit, meaning) in NEEDS.items()
    ]


def needs_field(need: str, target: float) -> str:
    """The key of what it takes to reach an accuracy; need: of NEEDS."""
    return f"{need}_to_{target:g}"


def client_metric_names(has_accuracy: bool | None, personalised: bool) -> list[str]:
    """The metrics over clients that are measured.

    The mean of the loss always, and all statistics of the accuracy, or of the loss without one.
    has_accuracy: None if that is not known: then there may be any. personalised: whether the
    models that clients have fine-tuned are evaluated, too.
    """
    kinds = ("", "personalised_") if personalised else ("",)
    told = {f"{kind}loss" for kind in kinds}
    for value, known in (("accuracy", has_accuracy is not False), ("loss", not has_accuracy)):
        ends = [end for end, *_ in _STATISTICS] * known
        told |= {f"{kind}{value}{end}" for kind in kinds for end in ends}
    return [name for name in OF_CLIENTS if name.removeprefix("clients/") in told]


def is_target(name: str) -> bool:
    """Whether a metric is one of `target_metrics`."""
    return name.startswith(TARGET)


def is_metric(name: str) -> bool:
    """Whether a sweep may compare its trials by a metric of this name."""
    return name in SWEEPABLE or is_target(name)


def direction_of(name: str) -> Direction:
    """The direction in which a metric improves by which a sweep may compare its trials."""
    return "min" if is_target(name) else SWEEPABLE[name]


def field_of(name: str) -> str:
    """The key that a metric by which a sweep may compare has in the summary of a run."""
    if is_target(name):
        _, target, need = name.split("/")
        return needs_field(need, float(target))
    return next(metric.field for metric in METRICS if metric.name == name)


def score_of(name: str, metrics: Mapping[str, float], summary: Mapping[str, Any]) -> float | None:
    """The value of a metric by which a sweep compares its trials; None: target not reached.

    metrics: tracked ones of a trial's last round. summary: of its rounds.
    """
    if not is_target(name):
        return metrics[name]
    value: float | None = summary.get(field_of(name))
    return value


def value_of(name: str, record: object) -> float | None:
    """The value of the metric of this name in a record, or None where it was not measured."""
    return next(metric for metric in METRICS if metric.name == name).value(record)


def unit_of(name: str) -> str:
    """The unit of a metric, also of one of `target_metrics`; "" if there is none of this name."""
    if is_target(name):
        return NEEDS[name.rpartition("/")[2]][0]
    return next((metric.unit for metric in METRICS if metric.name == name), "")


def is_share(name: str) -> bool:
    """Whether the values of a metric are from 0 to 1."""
    return unit_of(name) == "0 to 1"


def is_finite(score: float | None) -> bool:
    """Whether a score can be compared: it was measured and is neither NaN nor infinite."""
    return score is not None and math.isfinite(score)


def rank(score: float | None, direction: Direction) -> float:
    """The key that sorts scores from best to worst; those that are not finite come last."""
    if score is None or not math.isfinite(score):
        return math.inf
    return -score if direction == "max" else score


def tracked(record: object) -> dict[str, float]:
    """A record as tracked metrics, name -> value; what was not measured is left out."""
    values = {metric.name: metric.value(record) for metric in METRICS}
    return {name: value for name, value in values.items() if value is not None}


def over_bytes(metrics: Mapping[str, float]) -> dict[str, tuple[float, int]]:
    """The metrics of BY_BYTES in those of a round that was evaluated: name -> value and step.

    A step is at least 1, since a logarithmic axis has no 0.
    """
    judged = next((name for name in JUDGED if name in metrics), "")
    found = {}
    for suffix, parts in BY_BYTES.items():
        if metrics.keys() >= {judged, *parts}:
            total = sum(metrics[part] for part in parts)
            found[judged + suffix] = metrics[judged], max(1, round(total / 1000))
    return found


def final_names(metrics: Sequence[Metric] | None = None) -> list[str]:
    """The names of the scalars at the end of a run; metrics: default METRICS."""
    metrics = METRICS if metrics is None else metrics
    finals = [f"final/{metric.field}" for metric in metrics if metric.final]
    bests = [f"best/{metric.field}" for metric in metrics if metric.best]
    return [*finals, "final/seconds", *bests, "best/round"]


def accuracy_metric(has_validation: bool) -> str:
    """The accuracy that is measured while a model is trained."""
    return ACCURACIES[0] if has_validation else ACCURACIES[1]


def judged_metric(measured: Collection[str]) -> str:
    """The metric of JUDGED that is shown where these were measured."""
    return next(name for name in JUDGED if name in measured)


def final_judged(summary: Mapping[str, Any]) -> tuple[str, float]:
    """The metric of JUDGED in the summary of a run, and its value after the last round."""
    values = {name: summary.get(name.replace("/", "_")) for name in JUDGED}
    measured = {name: value for name, value in values.items() if value is not None}
    name = judged_metric(measured)
    return name, measured[name]


def final_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The scalars at the end of a run that were measured, by which a run table can be sorted."""
    keys = {name: name.removeprefix("final/").replace("best/", "best_") for name in final_names()}
    keys |= {
        f"final/{key}": key
        for key in summary
        if "_to_" in key and key.partition("_to_")[0] in NEEDS
    }
    found = {name: summary.get(key) for name, key in keys.items()}
    return {name: value for name, value in found.items() if value is not None}
