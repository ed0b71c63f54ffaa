"""The evaluation of trained models: the values of the run, other data, and what does not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.experiment.evaluation import evaluate_model
from fedsmu_ray.experiment.model_file import TrainedModel
from fedsmu_ray.experiment.run import run

PLAIN = {
    "data": {"clients": 10},
    "model": {"hidden": [12]},
    "local": {"epochs": 1, "batch_size": 50, "lr": 0.3},
    "federation": {"rounds": 2, "cohort": 3},
    "tracking": {"uri": None},
    "compute": {"executor": "inline"},
}
SYNTHETIC = {"dataset": "synthetic", "clients": 10}


class Mixing(nn.Module):
    """A model to whose outputs the other samples of a batch matter, and which draws."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("shift", torch.randn(10))

    def forward(self, x):
        y = self.layer(x.flatten(1)) + self.shift
        return y - y.mean(0) + 0.01 * torch.randn_like(y)


def mixing(shape, classes):
    return Mixing()


def trained(**changes):
    result = run(parse({**PLAIN, **changes}))
    return result.summary, TrainedModel.of(result.problem, result.params)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"name": "linear"}, "data": SYNTHETIC, "algorithm": {"name": "dlion"}},
        {"model": {"name": "torchvision:squeezenet1_1", "image_size": 32}},
        {"model": {"name": f"import:{__name__}:mixing"}, "seed": 5},
        {"data": {"clients": 10, "validation": 0.2}},
    ],
    ids=["mlp", "floats", "convolutions", "mixing", "validation"],
)
def test_a_run_is_reproduced_exactly(changes):
    summary, model = trained(**changes)
    found = evaluate_model(model)
    assert found["test_accuracy"] == summary["test_accuracy"]
    assert found["test_loss"] == summary["test_loss"]
    assert found["model_sha256"] == summary["model_sha256"]
    assert found["data_digest"] == model.data_digest


def digits_as_npz(path, model_classes=10, side=8, mean=None):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 200, (60, 1, side, side)).astype(np.uint8)
    y = np.arange(60) % model_classes
    named = {} if mean is None else {"mean": np.float32([mean]), "std": np.float32([0.5])}
    np.savez(path, train_x=x, train_y=y, test_x=x[:20], test_y=y[:20], **named)
    return {"data.dataset": "npz", "data.root": str(path)}


def test_other_data_is_normalized_as_in_training(tmp_path):
    _, model = trained()
    one = evaluate_model(model, digits_as_npz(tmp_path / "one.npz"))
    other = evaluate_model(model, digits_as_npz(tmp_path / "other.npz", mean=0.1))
    assert one["samples"] == 20 and one["dataset"] == "npz"
    assert one["data_digest"] not in (model.data_digest, other["data_digest"])
    assert one["test_loss"] == other["test_loss"]


def test_data_that_does_not_fit_is_refused_with_both_shapes(tmp_path):
    _, model = trained()
    message = (
        r"data.dataset = npz: it has samples \[1, 6, 6\] of numbers in 10 classes, and the model "
        r"takes samples \[1, 8, 8\] of numbers in 10 classes"
    )
    with pytest.raises(ConfigError, match=message):
        evaluate_model(model, digits_as_npz(tmp_path / "small.npz", side=6))
    with pytest.raises(ConfigError, match="in 7 classes, and the model takes .* in 10 classes"):
        evaluate_model(model, digits_as_npz(tmp_path / "few.npz", model_classes=7))
    x = np.zeros((20, 1, 8, 8), np.float32)
    y = np.arange(20) % 10
    np.savez(tmp_path / "floats.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    with pytest.raises(ConfigError, match="numbers as they are, and the model takes images"):
        evaluate_model(model, {"data.dataset": "npz", "data.root": str(tmp_path / "floats.npz")})


def test_keys_of_the_same_data_set_are_kept():
    options = {"shape": [12], "classes": 4}
    summary, model = trained(
        data={**SYNTHETIC, "options": options},
        model={"name": "linear"},
        federation={"rounds": 1, "cohort": 3},
    )
    assert evaluate_model(model)["test_loss"] == summary["test_loss"]
    changed = evaluate_model(model, {"data.options.seed": 5})
    assert changed["data_digest"] != model.data_digest
    with pytest.raises(ConfigError, match="data.shards"):
        evaluate_model(model, {"data.shards": 3})
