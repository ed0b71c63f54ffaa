"""Validation of configurations: every problem is listed at once, with a suggestion."""

import pickle
import re

import pytest

from fedsmu_ray.config.compute import EXECUTORS
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.sweeps import space


def problems(plain):
    with pytest.raises(ConfigError) as caught:
        parse(plain)
    return caught.value.problems


def test_every_problem_is_listed_with_the_nearest_key():
    found = problems(
        {
            "seed": -1,
            "data": {"datset": "digits", "clients": "ten", "partition": {"alpha": 0}},
            "algorithm": {"name": "fedsmu", "gama1": 0.1, "beta1": 1.5},
            "local": {"lr": True, "batch_size": 3.5},
            "federaton": {"rounds": 3},
        }
    )
    for words in (
        "seed = -1",
        "data.datset: unknown key; did you mean data.dataset",
        "data.clients = 'ten'",
        "data.partition.alpha = 0",
        "algorithm.gama1: unknown key; did you mean algorithm.gamma1",
        "algorithm.beta1 = 1.5",
        "local.lr = True",
        "local.batch_size = 3.5",
        "federaton: unknown key; did you mean federation",
    ):
        assert any(words in p for p in found), (words, found)
    assert len(found) == 9


@pytest.mark.parametrize(
    "plain, words",
    [
        (
            {"data": {"clients": 5}, "federation": {"cohort": 6}},
            "federation.cohort = 6: only data.clients = 5",
        ),
        (
            {"algorithm": {"name": "fedsum"}},
            "algorithm.name = 'fedsum': must be one of .*did you mean fedsmu",
        ),
        ({"algorithm": {"name": "fedavg", "gamma1": 0.1}}, "FedAvg has lr"),
        ({"compute": {"gpus_per_actor": 1.5}}, "whole number"),
        ({"compute": {"precision": "tf32"}}, "only GPUs have it"),
        (
            {"compute": {"executor": "inline"}, "federation": {"client_timeout_s": 3.0}},
            "cannot stop a client that hangs; use compute.executor=ray or remove it",
        ),
        ({"compute": {"executor": "rai"}}, "must be one of inline, ray; did you mean ray?"),
        (
            {"tune": {"metric": "test/acc"}},
            "tune.metric = 'test/acc': must be one of test/accuracy, test/loss, val/accuracy, "
            "val/loss, train/loss, comm/uplink_bytes, comm/downlink_bytes; did "
            "you mean test/accuracy?",
        ),
        (
            {"tune": {"metric": "val/loss"}},
            "tune.metric = val/loss: there are no validation samples; set data.validation",
        ),
        (
            {"tune": {"metric": "test/loss"}, "data": {"validation": 0.1}},
            "with data.validation = 0.1 trials are not chosen on the test set; use val/accuracy",
        ),
        ({"data": {"validation": 1}}, "data.validation = 1: must be less than 1"),
        (
            {"tune": {"mode": "maximum"}},
            "tune.mode = 'maximum': must be max or min",
        ),
        (
            {"tune": {"metric": "test/loss", "mode": "max"}},
            "tune.mode = max: test/loss is better when it is smaller, .* remove tune.mode",
        ),
        ({"tune": {"mode": "min"}}, "test/accuracy is better when it is larger"),
        (
            {"tracking": {"register": "mine", "models": "none"}},
            "tracking.register = 'mine': tracking.models = none keeps no model; set it to best",
        ),
        ({"tracking": {"register": "a/b"}}, "'a/b': MLflow takes no empty name, and none with"),
        (
            {"federation": {"cohort": 3, "min_cohort": 4}},
            "only federation.cohort = 3 clients are sampled",
        ),
        ({"name": 1.1}, "name = 1.1: must be text; quote a value"),
        ({"model": {"name": "mlp", "hidden": 64}}, r"hidden = 64: must be a list, as in \[a, b\]"),
        ({"LOCAL": {"lr": 0.1}}, "LOCAL: unknown key; did you mean local?"),
        ({"algorithm": 3}, "algorithm = 3: expected a mapping"),
        ({"algorithm": {"profile": "author"}}, "did you mean authors"),
        ({"model": {"widths": [3]}}, "model.widths: unknown key"),
        ({"data": {"dataset": "digit"}}, "did you mean digits"),
        ({"data": 3}, "data = 3: expected a mapping"),
        ({"local": {"lr": float("nan")}}, "local.lr = nan"),
        ({"lr": 0.1}, "lr: unknown key; did you mean local.lr"),
        ({"local.lr": 0.1}, "local.lr: sections are nested in a file; write local: {lr: ...}"),
    ],
)
def test_single_problems(plain, words):
    (found,) = problems(plain)
    assert re.search(words, found), found


@pytest.mark.parametrize(
    "model, message",
    [
        (
            {"name": "lenet", "hidden": [10]},
            r"model.hidden = \(10,\): lenet does not read it \(only mlp\); remove it",
        ),
        ({"name": "mlp", "stem": "cifar"}, "model.stem = 'cifar': mlp does not read it"),
        ({"name": "lennet"}, "model.name = 'lennet': must be one of .* did you mean lenet"),
        ({"name": "import:nothing"}, "model.name = 'import:nothing': must be one of"),
    ],
)
def test_model_options_are_checked(model, message):
    with pytest.raises(ConfigError, match=message):
        parse({"model": model})


# A user's method: FedAvg with server learning rate `rate`, and a field `decay` that profiles set.
MINE = """
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.algorithms import Method
from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class Mine(Method):
    rate: Annotated[float, Field(gt=0, description="server step")] = 1.0
    decay: float = 0.5
    rule: Literal["mean", "median"] = "mean"
    widths: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.rate > 100:
            raise ValueError("a rate above 100 diverges")

    def uplink(self, setting):
        return {"delta": Float32()}

    def client(self, received, state, local):
        return {"delta": local.train(received["x"]) - received["x"]}, {}

    def server(self, server, mean, round):
        return {"x": server["x"] + self.rate * mean["delta"]}


class NotAMethod:
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return "import:my_methods:Mine"


def test_a_users_method_is_read_like_a_built_in_one(mine):
    config = parse({"algorithm": {"name": mine, "rate": 2, "widths": [3]}})
    assert config.method_name == mine and type(config.algorithm).__name__ == "Mine"
    method = config.algorithm
    assert (method.rate, method.decay, method.rule, method.widths) == (2.0, 0.9988, "mean", (3,))
    assert parse({"algorithm": {"name": mine, "profile": "paper"}}).algorithm.decay == 1.0
    assert parse(config.to_dict()) == config
    assert config.flat()["algorithm.name"] == mine and config.flat()["algorithm.rate"] == 2.0
    assert load_config(None, {"algorithm.name": mine}).algorithm.rate == 1.0


def test_options_of_a_users_method_are_swept(mine):
    config = parse(
        {"algorithm": {"name": mine}, "tune": {"space": {"algorithm.rate": {"grid": [0.5, 1.0]}}}}
    )
    space.check(config)
    rates = [
        space.trial_config(config, params).algorithm.rate for params in space.list_params(config)
    ]
    assert rates == [0.5, 1.0]


def test_every_problem_of_a_users_method_is_listed(mine):
    found = problems(
        {
            "algorithm": {"name": mine, "raet": 1.0, "rule": "men", "widths": ["a"], "rate": "x"},
            "local": {"lr": -1},
        }
    )
    for words in (
        "algorithm.raet: unknown key; did you mean algorithm.rate? (Mine has rate, decay, rule, "
        "widths)",
        "algorithm.rule = 'men': must be mean or median; did you mean mean?",
        "algorithm.widths = ('a',): must be a valid integer",
        "algorithm.rate = 'x': must be a valid number",
        "local.lr = -1",
    ):
        assert any(words in p for p in found), (words, found)
    assert len(found) == 5


@pytest.mark.parametrize(
    "name, words",
    [
        ("import:my_methods:NotAMethod", "NotAMethod is not a subclass of .*Method"),
        ("import:my_methods:Absent", "has no function or class Absent"),
        ("import:no_such_module:Mine", "no_such_module cannot be imported.*PYTHONPATH"),
        ("import:my_methods", "must be one of .*import:<package.module>:<Class>"),
        (3, "algorithm.name = 3: must be one of fedsmu"),
    ],
)
def test_names_that_are_no_method(mine, name, words):
    (found,) = problems({"algorithm": {"name": name}})
    assert found.startswith("algorithm.name = ") and re.search(words, found), found


def test_an_exception_in_a_users_method_is_reported(mine):
    (found,) = problems({"algorithm": {"name": mine, "rate": 101.0}})
    raised = f"algorithm.name = {mine}: it raised ValueError: a rate above 100 diverges"
    assert found.startswith(f"{raised} (") and "my_methods.py:20); correct the code" in found


def test_the_exception_of_a_users_method_is_the_cause(mine):
    with pytest.raises(ConfigError) as caught:
        parse({"algorithm": {"name": mine, "rate": 101.0}, "seed": -1})
    assert len(caught.value.problems) == 2
    assert str(caught.value.__cause__.__cause__) == "a rate above 100 diverges"


def test_executors_differ_in_what_they_can_do():
    for name, executor in EXECUTORS.items():
        plain = {"compute": {"executor": name}, "federation": {"client_timeout_s": 1.0}}
        assert bool(executor.stops_clients) == _is_valid(plain)


def _is_valid(plain):
    try:
        return bool(parse(plain))
    except ConfigError:
        return False


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(ConfigError(["a: b", "c: d"])))
    assert error.problems == ["a: b", "c: d"] and "2 problems" in str(error)


def test_with_validation_samples_trials_are_compared_on_them_by_default():
    assert parse({"data": {"validation": 0.1}}).tune.metric == "val/accuracy"
    chosen = parse({"data": {"validation": 0.1}, "tune": {"metric": "train/loss"}})
    assert chosen.tune.metric == "train/loss"
    assert parse(chosen.to_dict()) == chosen
    assert parse({"data": {"validation": 0}}).tune.metric == "test/accuracy"
