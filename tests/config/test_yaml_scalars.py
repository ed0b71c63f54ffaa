"""Unquoted values of YAML: read as a reader expects, or refused."""

import pytest

from fedsmu_ray.config.yaml_files import parse_overrides
from fedsmu_ray.config.yaml_scalars import refusal
from fedsmu_ray.errors import ConfigError


@pytest.mark.parametrize(
    "text, value",
    [
        ("0", 0),
        ("-12", -12),
        ("+1", 1),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0b11", 3),
        ("1e-3", 0.001),
        ("1.5e3", 1500.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("none", "none"),
        ("y", "y"),
        ("=", "="),
        ("0e-400", 0.0),
        ("1e-320", 1e-320),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("~/data", "~/data"),
        ("'010'", "010"),
        ('"yes"', "yes"),
        ("!!str 010", "010"),
    ],
)
def test_values_are_read_as_written(text, value):
    (found,) = parse_overrides([f"key={text}"]).values()
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("010", "begins with 0 is octal in YAML 1.1; write it without, or '010'"),
        ("-08", "begins with 0"),
        ("0o17", "begins with 0"),
        ("1:30", "base 60 in YAML 1.1; write it in decimal, or '1:30'"),
        ("12:34:56.5", "base 60"),
        ("yes", "is true in YAML 1.1 and text in YAML 1.2; write true, or 'yes'"),
        ("Off", "write false"),
        ("~", "write null, ~/ for the home folder, or '~'"),
        ("None", "write null, or 'None'"),
        ("10_00", "without _"),
        ("1_000.5", "without _"),
        ("0X1F", "without _"),
        ("12e4567", "beyond the range of a float; write a number within it, or '12e4567'"),
        ("-1e-400", "beyond the range of a float"),
        ("<<", "merge keys are not supported"),
        ("!!int '010'", "begins with 0"),
        ("[1, {a: 010}]", "a = 010: a number that begins with 0"),
    ],
)
def test_what_readers_take_for_different_things_is_refused(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_overrides([f"key={text}"])
    (problem,) = caught.value.problems
    assert "key=" in problem and words in problem


def test_quoting_is_shown_as_a_shell_needs_it():
    with pytest.raises(ConfigError, match=r"in a shell: 'name=\"010\"'"):
        parse_overrides(["name=010"])
    assert parse_overrides(['name="010"']) == {"name": "010"}


def test_words_that_only_look_similar_are_text():
    assert not any(map(refusal, ("YeS", "onward", "1:3:x", "0b3f", "012-x", "a_1", "1.2_beta", "")))
