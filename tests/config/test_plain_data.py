"""Plain data: overrides, dotted keys, and values that a configuration cannot hold."""

import datetime

import pytest

from fedsmu_ray.config.plain_data import (
    apply_overrides,
    deep_copy,
    find_unsupported_values,
    flatten_keys,
    format_value,
)
from fedsmu_ray.errors import ConfigError


def test_another_method_drops_the_fields_of_the_first():
    plain = {"algorithm": {"name": "fedsmu", "gamma1": 0.1, "profile": "paper"}}
    assert apply_overrides(plain, {"algorithm.name": "fedavg"})["algorithm"] == {
        "name": "fedavg",
        "profile": "paper",
    }
    assert apply_overrides(plain, {"algorithm.name": "fedsmu"})["algorithm"] == plain["algorithm"]
    assert plain["algorithm"]["gamma1"] == 0.1


def test_overrides_are_set_in_a_copy():
    plain = {"local": {"lr": 0.1}, "tune": 3}
    made = apply_overrides(
        plain, {"local.lr": 0.2, "tune.space.local.lr": {"grid": [1]}, "seed": 4}
    )
    assert made == {"local": {"lr": 0.2}, "tune": {"space": {"local.lr": {"grid": [1]}}}, "seed": 4}
    assert plain == {"local": {"lr": 0.1}, "tune": 3}
    with pytest.raises(ConfigError, match="local.lr = inf: must be a finite number"):
        apply_overrides({}, {"local.lr": float("inf")})


def test_nested_and_dotted():
    assert flatten_keys({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2]}
    assert deep_copy({"a": ({"b": (1,)},)}) == {"a": [{"b": [1]}]}


@pytest.mark.parametrize(
    "value, words",
    [
        (datetime.date(2020, 1, 1), "must be text, a number, true, false, null"),
        (2**63, "fewer digits"),
        ("a\0", "control characters"),
        ({1: 2}, "the key 1 must be text"),
        ([[float("nan")]], "x = nan: must be a finite number"),
    ],
)
def test_unsupported_values_are_named(value, words):
    (problem,) = find_unsupported_values({"x": value})
    assert problem.startswith("x") and words in problem


def test_values_in_messages_are_short():
    assert format_value("a" * 500) == f"'{'a' * 120}'"
    assert len(format_value(list(range(500)))) == 123
    assert format_value(10**5000) == "an integer too long to show"
