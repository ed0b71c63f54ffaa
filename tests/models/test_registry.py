"""Models by name: initial parameters, and models that do not fit the data."""

from types import SimpleNamespace

import pytest
import torch

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.models import registry
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


class Several(torch.nn.Module):
    """Returns its outputs in one of the forms in which modules return several."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, torch.nn.Linear(64, 10)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        forms = {
            "tuple": (x, y),
            "dict": {"hidden": x, "logits": y},
            "object": SimpleNamespace(hidden=x, logits=y),
        }
        return forms[self.form]


@pytest.mark.parametrize("form, output", [("tuple", 1), ("dict", "logits"), ("object", "logits")])
def test_one_of_several_outputs_is_trained(form, output):
    config = {"model": Several(form), "task": {"output": output}, "data": {"clients": 20}}
    problem = Problem.of(load_config(config))
    assert problem.module()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert set(dict(problem.module().named_parameters())) == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize(
    "form, output, problem",
    [
        ("dict", None, "returns a dict; .* task.output must say which"),
        ("dict", "logit", r"task.output = logit: the model returned \['hidden', 'logits'\]"),
        ("tuple", 2, "task.output = 2: the model returned tuple"),
        ("tuple", "logits", "task.output = logits: the model returned tuple"),
    ],
)
def test_an_output_that_there_is_not_is_told(form, output, problem):
    config = {"model": Several(form), "task": {"output": output}, "data": {"clients": 20}}
    with pytest.raises(ConfigError, match=problem):
        Problem.of(load_config(config))


def test_char_lstm_predicts_each_position_where_there_is_a_target_for_it():
    model = registry.find("char_lstm")()
    last, each = (
        registry.build("char_lstm", model, TEXT, 80, 0, 80, each) for each in (False, True)
    )
    x = torch.arange(160).reshape(2, 80) % 80
    assert each(x).shape == (2, 80, 80)
    torch.testing.assert_close(each(x)[:, -1], last(x))


def test_models_with_one_output_do_not_take_sequences_of_targets():
    model = registry.find("mlp")()
    with pytest.raises(ConfigError, match="one token per position; use model.name=char_lstm"):
        registry.build("mlp", model, (5,), 7, 0, each_position=True)
