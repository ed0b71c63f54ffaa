"""Names and values are changed only where MLflow does not accept them, and stay apart."""

import pytest

from fedsmu_ray.tracking.mlflow_names import MAX_NAME, MAX_PARAM, accepted, accepted_name, shortened


@pytest.mark.parametrize(
    "name, safe",
    [
        ("local.lr", "local.lr"),
        ("test/accuracy", "test/accuracy"),
        ("größe: a-b_c", "größe: a-b_c"),
        ("dropout (%)", "dropout _x28__x25__x29_"),
        ("a\tb", "a_x09_b"),
        ("a//b", "a_x2f__x2f_b"),
        ("/a", "_x2f_a"),
        ("../a", "_x2e__x2e__x2f_a"),
        (".", "_x2e_"),
        ("a/", "a_x2f_"),
        ("", "_"),
    ],
)
def test_characters_that_mlflow_does_not_accept_become_their_codes(name, safe):
    from mlflow.utils.validation import _validate_param_name

    assert accepted_name(name) == safe
    _validate_param_name(accepted_name(name))


def test_long_names_stay_apart():
    one, other = accepted_name("k" * 300 + "1"), accepted_name("k" * 300 + "2")
    assert len(one) == len(other) == MAX_NAME and one != other
    assert shortened("n" * MAX_NAME, MAX_NAME) == "n" * MAX_NAME


def test_no_value_is_lost():
    found = accepted({"a(": "1", "a_x28_": "2", "b": "v" * 7000, "c": ""}, MAX_PARAM)
    assert sorted(found.values(), key=len)[:3] == ["", "1", "2"] and len(found) == 4
    assert found["a_x28_"] == "1" and found["c"] == ""
    assert len(found["b"]) == MAX_PARAM and found["b"].endswith("v... (cut, 7,000 characters)")
