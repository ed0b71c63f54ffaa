"""Errors that a user can fix: messages, pickling, base classes."""

import pickle

import pytest

from fedsmu_ray import errors


def test_a_configuration_error_lists_its_problems():
    assert str(errors.ConfigError(["a = 1: x"])) == "the configuration has a problem:\n  - a = 1: x"
    message = str(errors.ConfigError(["one", "two"]))
    assert message == "the configuration has 2 problems:\n  - one\n  - two"


def test_a_message_stays_readable_however_many_and_long_the_problems_are():
    error = errors.ConfigError(["x" * 5000] * 30)
    first, *lines, last = str(error).splitlines()
    assert first == "the configuration has 30 problems:" and last == "  - ... and 10 more"
    assert len(lines) == errors.MAX_PROBLEMS
    assert all(len(line) == errors.MAX_PROBLEM_LENGTH + len("  - ...") for line in lines)
    assert len(error.problems) == 30


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(errors.ConfigError(["one", "two"])))
    assert isinstance(error, errors.ConfigError) and error.problems == ["one", "two"]
    assert str(pickle.loads(pickle.dumps(errors.ClientError("client 3")))) == "client 3"


@pytest.mark.parametrize(
    "error, builtin",
    [
        (errors.ConfigError, ValueError),
        (errors.MessageError, ValueError),
        (errors.ClientError, RuntimeError),
        (errors.DivergenceError, ArithmeticError),
        (errors.LostError, errors.ExecutionError),
        (errors.CheckpointError, RuntimeError),
    ],
)
def test_errors_are_also_python_errors(error, builtin):
    assert issubclass(error, errors.ExperimentError) and issubclass(error, builtin)
