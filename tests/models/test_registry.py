"""Models by name: initial parameters, and models that do not fit the data."""

import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from tests.helpers.models import CIFAR, TEXT, build


@pytest.mark.parametrize(
    "options, shape",
    [
        ({"name": "lenet"}, CIFAR),
        ({"name": "resnet18_gn"}, CIFAR),
        ({"name": "char_lstm"}, TEXT),
        ({"name": "torchvision:mobilenet_v3_small"}, CIFAR),
    ],
    ids=str,
)
def test_initialization_depends_on_the_seed_alone(options, shape):
    state = torch.get_rng_state()
    one = parameters.flatten(build(options, shape, 80, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(one, parameters.flatten(build(options, shape, 80, seed=3)))
    assert not torch.equal(one, parameters.flatten(build(options, shape, 80, seed=4)))
    assert torch.isfinite(one).all()


def test_tokens_need_a_model_for_tokens():
    x = torch.arange(40).reshape(8, 5).numpy() % 7
    data = from_arrays(
        "own", {"train_x": x, "train_y": x[:, 0], "test_x": x, "test_y": x[:, 0]}, "own"
    )
    assert isinstance(data, Dataset) and data.symbols == 7
    few = {"data": {"clients": 2}, "federation": {"cohort": 1}}
    with pytest.raises(ConfigError, match="the data has tokens .whole numbers.; use model"):
        Problem.of(parse({**few, "model": {"name": "mlp"}}), data)
    assert Problem.of(parse({**few, "model": {"name": "char_lstm"}}), data).dim
