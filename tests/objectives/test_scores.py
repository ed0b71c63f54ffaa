import numpy as np
import pytest
import torch
from sklearn import metrics as oracles

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.losses import BinaryCrossEntropy, CrossEntropy, NextToken, SquaredError
from fedsmu_ray.objectives.metrics import EVALUATION_METRICS
from fedsmu_ray.objectives.scores import Scores
from fedsmu_ray.objectives.scores import _tell as told

LOSSES = {
    "classes": CrossEntropy(),
    "multi_hot": BinaryCrossEntropy(),
    "values": SquaredError(),
    "tokens": NextToken(),
}
COUNT = 6  # of classes, labels and values


def samples(kind, count=90):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 4, COUNT) if kind == "tokens" else (count, COUNT)
    outputs, noise = torch.randn((2, *shape), generator=generator).unbind()
    if kind in ("classes", "tokens"):
        targets = torch.randint(0, COUNT, shape[:-1], generator=generator)
        return outputs, targets if kind == "classes" else targets.masked_fill(
            noise[..., 0] > 1, -100
        )
    return outputs, noise if kind == "values" else (noise > 0).float()


def evaluated(kind, metrics, slices=((0, 90),), batch=90):
    outputs, targets = samples(kind)
    parts = []
    for first, end in slices:
        scores = Scores(LOSSES[kind], kind, COUNT, metrics)
        for i in range(first, end, batch):
            scores.add(outputs[i : min(i + batch, end)], targets[i : min(i + batch, end)])
        parts.append(scores.result())
    return Scores(LOSSES[kind], kind, COUNT, metrics).totals(parts)


@pytest.mark.parametrize("kind", LOSSES)
def test_values_do_not_depend_on_who_evaluates_which_samples(kind):
    metrics = [name for name, metric in EVALUATION_METRICS.items() if kind in metric.torchmetrics]
    whole = evaluated(kind, metrics)
    parts = evaluated(kind, metrics, ((0, 20), (20, 25), (25, 90)), batch=10)
    assert whole.keys() == parts.keys() >= {*metrics, "loss"}
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-6), name


def f1(y, t, **options):
    return oracles.f1_score(t, y.argmax(-1), average="macro", labels=range(COUNT))


@pytest.mark.parametrize(
    "kind, name, oracle",
    [
        ("classes", "accuracy", lambda y, t: (y.argmax(-1) == t).mean()),
        ("classes", "f1_macro", f1),
        (
            "classes",
            "top5",
            lambda y, t: oracles.top_k_accuracy_score(t, y, k=5, labels=range(COUNT)),
        ),
        ("classes", "recall_macro", lambda y, t: oracles.balanced_accuracy_score(t, y.argmax(-1))),
        ("classes", "kappa", lambda y, t: oracles.cohen_kappa_score(t, y.argmax(-1))),
        ("multi_hot", "accuracy", lambda y, t: ((y > 0) == (t > 0)).mean()),
        ("multi_hot", "f1_micro", lambda y, t: oracles.f1_score(t, y > 0, average="micro")),
        ("multi_hot", "auroc", lambda y, t: oracles.roc_auc_score(t, y)),
        ("multi_hot", "exact_match", lambda y, t: ((y > 0) == (t > 0)).all(-1).mean()),
        ("values", "mae", lambda y, t: np.abs(y - t).mean()),
        ("values", "rmse", lambda y, t: np.sqrt(((y - t) ** 2).mean())),
        ("values", "r2", lambda y, t: oracles.r2_score(t, y)),
        ("tokens", "accuracy", lambda y, t: (y.argmax(-1) == t)[t >= 0].mean()),
        ("tokens", "perplexity", lambda y, t: np.exp(cross_entropy(y[t >= 0], t[t >= 0]))),
    ],
)
def test_values_are_those_of_scikit_learn(kind, name, oracle):
    metrics = [] if name == "accuracy" else [name]
    outputs, targets = (x.numpy() for x in samples(kind))
    assert evaluated(kind, metrics)[name] == pytest.approx(
        float(oracle(outputs, targets)), rel=1e-5
    )


def cross_entropy(y, t):
    shifted = y - y.max(-1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(logarithms, t[:, None], 1).mean()


def test_values_have_no_accuracy():
    assert evaluated("values", []).keys() == {"loss"}


def test_a_metric_of_other_targets_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"f1_macro .*\(values\).* mae, mse, rmse, r2"):
        Scores(SquaredError(), "values", 1, ["f1_macro"])


def test_a_warning_of_torchmetrics_is_told_once(caplog):
    """AUROC of a class without samples."""
    told.cache_clear()  # other tests may have met it
    for _ in range(2):
        scores = Scores(CrossEntropy(), "classes", 3, ["auroc"])
        scores.add(samples("classes")[0][:4, :3], torch.tensor([0, 1, 0, 1]))
        scores.totals([scores.result()])
    assert [record.getMessage().partition(" samples")[0] for record in caplog.records] == [
        "task.metrics: auroc: No positive"
    ]
