"""The metrics of evaluation by name; `scores` computes them.

All but accuracy are those of the torchmetrics library, which is imported when one is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedsmu_ray.objectives.targets import Targets

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class EvaluationMetric:
    """A metric of the held-out samples.

    torchmetrics: the class for each kind of targets, as a path in that library. options: arguments
    of its constructor; `count` names the one that is the number of classes, labels or values.
    """

    meaning: str
    direction: Direction
    torchmetrics: Mapping[Targets, str]
    options: Mapping[str, object]
    is_share: bool = True  # of 0 to 1, shown in percent


def _of_classes(
    meaning: str, name: str, direction: Direction = "max", **options: Any
) -> EvaluationMetric:
    path = "classification.Multiclass" + name
    return EvaluationMetric(meaning, direction, {"classes": path, "tokens": path}, options)


def _of_labels_too(meaning: str, name: str, **options: Any) -> EvaluationMetric:
    one = _of_classes(meaning, name, **options)
    multilabel = "classification.Multilabel" + name
    return EvaluationMetric(meaning, "max", {**one.torchmetrics, "multi_hot": multilabel}, options)


def _of_values(
    meaning: str, name: str, direction: Direction = "min", **options: object
) -> EvaluationMetric:
    return EvaluationMetric(meaning, direction, {"values": f"regression.{name}"}, options, False)


EVALUATION_METRICS: dict[str, EvaluationMetric] = {
    "top5": _of_classes(
        "share whose class is among the five likeliest", "Accuracy", average="micro", top_k=5
    ),
    "f1_macro": _of_labels_too("mean F1 score over classes or labels", "F1Score", average="macro"),
    "f1_micro": _of_labels_too("F1 score over all decisions", "F1Score", average="micro"),
    "precision_macro": _of_labels_too(
        "mean precision over classes or labels", "Precision", average="macro"
    ),
    "recall_macro": _of_labels_too(
        "mean recall over classes or labels (balanced accuracy)", "Recall", average="macro"
    ),
    "auroc": _of_labels_too("mean area under the ROC curves", "AUROC", average="macro"),
    "average_precision": _of_labels_too(
        "mean area under the precision-recall curves", "AveragePrecision", average="macro"
    ),
    "exact_match": EvaluationMetric(
        "share of samples all of whose labels are right",
        "max",
        {"multi_hot": "classification.MultilabelExactMatch"},
        {},
    ),
    "calibration_error": _of_classes(
        "expected calibration error, 15 bins", "CalibrationError", "min", n_bins=15
    ),
    "kappa": _of_classes("Cohen's kappa", "CohenKappa"),
    "perplexity": EvaluationMetric(
        "exponential of the mean cross-entropy over positions",
        "min",
        {"tokens": "text.Perplexity"},
        {},
        is_share=False,
    ),
    "mae": _of_values("mean absolute error", "MeanAbsoluteError"),
    "mse": _of_values("mean squared error", "MeanSquaredError"),
    "rmse": _of_values("root of the mean squared error", "MeanSquaredError", squared=False),
    "r2": _of_values("coefficient of determination, mean over values", "R2Score", "max"),
}
