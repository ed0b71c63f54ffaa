"""What is learned: options of losses, metrics, and data that they do not fit."""

import pickle

import pytest
import torch

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.objectives.losses import CrossEntropy, Huber

MULTI_LABEL = {"dataset": "synthetic", "options": {"targets": "multi_hot"}, "clients": 20}
VALUES = {"dataset": "diabetes", "clients": 20}


def power(outputs, targets, exponent=2.0):
    return (outputs - targets).abs() ** exponent


def test_the_default_is_plain_cross_entropy():
    assert parse({}).task.build_loss() == CrossEntropy() and CrossEntropy().is_plain


def test_options_reach_the_loss():
    task = {"loss": "cross_entropy", "label_smoothing": 0.1, "class_weights": [1.0, 2.0]}
    assert parse({"task": task}).task.build_loss() == CrossEntropy(0.1, (1.0, 2.0))
    assert parse({"task": {"loss": "huber", "delta": 2.0}}).task.build_loss() == Huber(2.0)


@pytest.mark.parametrize(
    "task, problem",
    [
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing = 0.1: .*mse does not read it"),
        ({"loss": "mse", "delta": 2.0}, r"task.delta = 2.0: .* \(only huber\)"),
        ({"options": {"beta": 1}}, r"task.options = .* \(only import:\)"),
        ({"loss": "crossentropy"}, "did you mean cross_entropy"),
        ({"loss": "import:torch.nn:MSELos"}, "did you mean MSELoss"),
        (
            {"metrics": ["f1_marco"]},
            r"task.metrics\[0\] = 'f1_marco': must be one of .*; did you mean f1_m",
        ),
        ({"metrics": ["accuracy"]}, "it is always measured"),
        ({"metrics": ["auroc", "auroc"]}, r"task.metrics\[1\] = auroc: named twice"),
    ],
)
def test_options_and_metrics_that_there_are_not_are_refused(task, problem):
    with pytest.raises(ConfigError, match=problem):
        parse({"task": task})


@pytest.mark.parametrize(
    "plain, problem",
    [
        ({"tune": {"metric": "test/f1_macro"}}, r"add it to task.metrics, as in \[f1_macro\]"),
        (
            {"task": {"loss": "mse"}, "tune": {"metric": "test/accuracy"}},
            "task.loss = mse is for values, which have no accuracy; use test/loss",
        ),
        (
            {"federation": {"stop": {"metric": "test/auroc", "target": 0.9}}},
            "federation.stop.metric = test/auroc: it is not measured",
        ),
    ],
)
def test_a_metric_that_is_not_measured_decides_nothing(plain, problem):
    with pytest.raises(ConfigError, match=problem):
        parse(plain)


@pytest.mark.parametrize(
    "plain, metric, direction",
    [
        ({}, "test/accuracy", "max"),
        ({"task": {"loss": "l1"}}, "test/loss", "min"),
        ({"task": {"loss": "l1"}, "data": {"validation": 0.1}}, "val/loss", "min"),
        (
            {"task": {"loss": "mse", "metrics": ["r2"]}, "tune": {"metric": "test/r2"}},
            "test/r2",
            "max",
        ),
    ],
)
def test_the_metric_of_a_sweep_has_the_direction_of_improvement(plain, metric, direction):
    tune = parse(plain).tune
    assert (tune.metric, tune.direction) == (metric, direction)


@pytest.mark.parametrize(
    "plain, problem",
    [
        ({"task": {"loss": "mse"}}, "digits has one class per sample .* task.loss=cross_entropy"),
        ({"data": VALUES}, "diabetes has numbers .* use task.loss=mse or l1 or huber"),
        ({"data": MULTI_LABEL}, "zeros and ones.* use task.loss=bce_with_logits"),
        ({"task": {"class_weights": [1.0, 2.0]}}, "class_weights has 2 numbers, and .* 10 classes"),
        ({"task": {"metrics": ["mae"]}}, "mae is not for targets of this kind"),
    ],
)
def test_data_that_the_loss_does_not_fit_are_refused(plain, problem):
    with pytest.raises(ConfigError, match=problem):
        Problem.of(parse({"data": {"clients": 20}, **plain}))


def test_a_function_may_be_the_loss():
    """It travels with the configuration, as a user's model does."""
    config = load_config({"task": {"loss": power, "options": {"exponent": 1.0}}, "data": VALUES})
    loss = pickle.loads(pickle.dumps(config)).task.build_loss()
    y, t = torch.tensor([[1.0], [4.0]]), torch.zeros(2, 1)
    assert loss.checked(y, t).of_batch(y, t) == 2.5
    assert config.tune.metric == "test/loss"  # whether it has an accuracy is not known
