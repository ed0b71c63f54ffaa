"""Checks of a method before an experiment begins: every error names the hook and the cure."""

import re
from dataclasses import dataclass, replace

import pytest
import torch

from fedsmu_ray.algorithms.base import Method, Setting
from fedsmu_ray.algorithms.checks import check_method
from fedsmu_ray.algorithms.dlion import DLion
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.reference import VARIANTS
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.wire.codecs import Float32

SETTING = Setting(sizes=(3, 4), clients=10, cohort=5, steps=3, lr=0.1)


@dataclass(frozen=True)
class Own(FedAvg):
    """A method whose hooks the tests replace."""


def refused(hook, returned, **others):
    """The error message for a method whose `hook` returns `returned`, or is that function."""
    hooks = {hook: returned, **others}
    body = {k: v if callable(v) else lambda self, *_, v=v: v for k, v in hooks.items()}
    with pytest.raises(ConfigError) as error:
        check_method("import:m:Own", type("Own", (Own,), body)(), SETTING)
    (problem,) = error.value.problems
    return problem


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_the_registry_pass(name):
    for options in ({}, *VARIANTS.get(name, ())):
        check_method(name, METHODS[name](**options), SETTING)


@pytest.mark.parametrize("hook", ["uplink", "downlink", "feedback"])
@pytest.mark.parametrize(
    "returned, problem, cure",
    [
        ([Float32()], "returned a list", "return a dict of codecs"),
        (None, "returned a NoneType", "return a dict of codecs"),
        ({"": Float32()}, "names a field ''", "use 1 to 5 ASCII characters"),
        ({"update": Float32()}, "names a field 'update'", "use 1 to 5 ASCII characters"),
        ({"Δ": Float32()}, "names a field 'Δ'", "use 1 to 5 ASCII characters"),
        ({3: Float32()}, "names a field 3", "use 1 to 5 ASCII characters"),
        ({"x": Float32}, "the field 'x' the codec <class", "use an instance of a codec"),
        ({"x": 32}, "the field 'x' the codec 32", "use an instance of a codec"),
    ],
)
def test_fields(hook, returned, problem, cure):
    message = refused(hook, returned)
    assert re.match(rf"algorithm.name = import:m:Own: Own.{hook} .*{problem}.*; {cure}", message)


def test_an_upload_has_fields():
    assert "Own.uplink has no fields; return at least one" in refused("uplink", {})


def fails(self, *_):
    raise KeyError("gain")


def calls_torch(self, *_):
    return {"m": torch.zeros(3) + torch.zeros(4)}


@pytest.mark.parametrize("hook", ["uplink", "downlink", "feedback", "server_init", "client_init"])
@pytest.mark.parametrize("body", [fails, calls_torch])
def test_an_exception_is_shown_with_its_line(hook, body):
    line = body.__code__.co_firstlineno + 1
    error = "KeyError: 'gain'" if body is fails else "RuntimeError: .*"
    expected = rf".*Own.{hook} raised {error} \({re.escape(__file__)}:{line}\); correct the code"
    assert re.match(expected, refused(hook, body), re.DOTALL)


def test_server_state():
    x = torch.zeros(7)
    assert "Own.server_init returned a Tensor; return a dict of tensors" in refused(
        "server_init", x
    )
    assert "Own.server_init returned no 'x'" in refused("server_init", {"y": x})
    assert "Own.server_init returned float as 'x'" in refused("server_init", {"x": 0.0})
    assert "returned 'x' with shape [1, 7] for x with shape [7]" in refused(
        "server_init", {"x": x[None]}
    )
    down = {"x": Float32(), "c": Float32()}
    assert "Own.broadcast returned no 'c'" in refused("downlink", down)
    check_method(  # a broadcast may compute the values it sends
        "own",
        type(
            "Own", (Own,), {"downlink": lambda *_: down, "broadcast": lambda *_: {"x": x, "c": x}}
        )(),
        SETTING,
    )


@pytest.mark.parametrize("make", [lambda x: {"m": x[:2]}, lambda x: {"m": x[None]}])
def test_client_state(make):
    message = refused("client_init", lambda self, x: make(x))
    assert "Own.client_init returned 'm' with shape" in message and "zeros_like" in message


def test_a_client_state_must_not_depend_on_values():
    message = refused("client_init", lambda self, x: {"m": x} if x.sum().item() == 0 else {})
    assert "Own.client_init raised" in message and "use the shape of x only" in message


def test_feedback():
    feedback = {"votes": Float32()}
    assert "Own.server_init returned no 'votes'" in refused(
        "feedback", feedback, apply_feedback=lambda *_: {}
    )
    assert "Own.apply_feedback is not defined, but there is feedback" in refused(
        "feedback", feedback
    )

    class Wrong(DLion):
        feedback_to = "everybody"

    with pytest.raises(
        ConfigError, match="Wrong.feedback_to is 'everybody'; return 'participants'"
    ):
        check_method("own", Wrong(), SETTING)

    class Odd(DLion):
        def feedback(self, setting):  # fails only if there is one participant
            return {"votes": Float32()} if setting.cohort > 1 else None

    with pytest.raises(ConfigError, match="Odd.feedback returned a NoneType"):
        check_method("own", Odd(), SETTING)


def test_abstract_hooks_keep_a_class_from_being_built():
    with pytest.raises(TypeError, match="abstract"):
        Method()


@pytest.mark.parametrize("name", ["scaffold", "scallion"])
@pytest.mark.parametrize("lr", [0.0, 1e-50, 1e-19])
def test_a_rate_that_a_method_cannot_divide_by_is_refused(name, lr):
    with pytest.raises(ConfigError, match=f"local.lr = {lr:g}: .*use a rate of at least 1e-18"):
        check_method(name, METHODS[name](), replace(SETTING, lr=lr))
    check_method(name, METHODS[name](), replace(SETTING, lr=1e-18))


def test_a_second_moment_that_never_changes_has_no_bias_to_correct():
    with pytest.raises(ConfigError, match="algorithm.beta2 = 1: .*algorithm.bias_correction=false"):
        check_method("fedams", METHODS["fedams"](beta2=1.0, bias_correction=True), SETTING)
    check_method("fedams", METHODS["fedams"](beta2=1.0), SETTING)


def test_a_methods_own_problems_are_shown_as_they_are():
    assert refused("problems", ["algorithm.gain = 3: too loud; lower it"]) == (
        "algorithm.gain = 3: too loud; lower it"
    )
    assert "Own.problems raised KeyError: 'gain'" in refused("problems", fails)
