"""YAML in files and on the command line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedsmu_ray.config.yaml_files import dump_yaml, parse_overrides, read_yaml
from fedsmu_ray.errors import ConfigError


def problem_of(read, argument):
    with pytest.raises(ConfigError) as caught:
        read(argument)
    (problem,) = caught.value.problems
    return problem


def test_overrides_are_yaml_and_numbers_in_scientific_notation_are_numbers():
    assert parse_overrides(["local.lr=1e-3", "seed=2", "local.clip_norm=null", "name=a=b"]) == {
        "local.lr": 1e-3,
        "seed": 2,
        "local.clip_norm": None,
        "name": "a=b",
    }
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_overrides(["local.lr"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_overrides(["local.lr={"])


def test_a_part_of_an_override_is_not_lost_as_a_comment():
    problem = problem_of(parse_overrides, ["tracking.experiment=run #3"])
    assert problem.endswith("""is text, write 'tracking.experiment="run #3"'""")
    assert "a comment" in problem_of(parse_overrides, ["name=#3"])
    assert parse_overrides(['a="run #3"', "b=x#3", "c=1 # one"]) == {
        "a": "run #3",
        "b": "x#3",
        "c": 1,
    }


@pytest.mark.parametrize("value", ["{a: s3cret", "0123", "x #s3cret", "*s3cret"])
def test_a_secret_that_is_no_yaml_is_not_in_the_message(value):
    with pytest.raises(ConfigError, match="options.token: its value is not plain text") as error:
        parse_overrides([f"data.options.token={value}"])
    assert "s3cret" not in str(error.value) and "0123" not in str(error.value)


def test_a_key_is_overridden_once():
    given = ["local.lr=0.1", "seed=1", "local.lr=0.2", "api_key=s3cr3t", "api_key=s3cr3t"]
    with pytest.raises(ConfigError) as error:
        parse_overrides(given)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["local.lr", "api_key"]
    assert "given more than once" in str(error.value) and "s3cr3t" not in str(error.value)


def test_a_file_after_overrides():
    assert "as the first" in problem_of(parse_overrides, ["my.yaml"])
    assert "expected key=value" in problem_of(parse_overrides, ["my"])


def test_an_override_without_a_value_is_refused():
    """Such as data.root=$FOLDER in a shell where FOLDER is not set."""
    assert "a value is missing; write data.root=null" in problem_of(parse_overrides, ["data.root="])
    assert parse_overrides(['data.root=""']) == {"data.root": ""}


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1\nseed: 2", "line 2: not valid YAML: key 'seed' is given twice"),
        ("\x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "line 2: not valid YAML: a second document begins here"),
        ("a: &x 1\nb: *x", "line 2: not valid YAML: aliases"),
        ("a:\n\tb: 1", "line 2: not valid YAML: a tab; use spaces"),
        ("a: 1\n b: 2", "line 2: not valid YAML: a ': ' where none can be; quote text"),
        ("a:1", "found str; write `key: value`, with a space"),
        ("a: 1\nb:\n  c: {d: [1, 1:30]}", "line 3: b.c.d = 1:30: is a number of base 60"),
        ("a:\n  on: 3", "line 2: a = on: is true in YAML 1.1"),
        ("a:\n  <<: {b: 1}", "line 2: a = <<: merge keys"),
    ],
)
def test_broken_files(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    problem = problem_of(read_yaml, tmp_path / "x.yaml")
    assert words in problem and problem.startswith(f"{tmp_path}/x.yaml")


def test_files_are_utf8_with_or_without_a_mark(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: \xc3\xa4\r\nseed: 1\r\n")
    assert read_yaml(file) == {"name": "ä", "seed": 1}
    file.write_bytes(b"seed: 1\nname: \xe4\n")
    assert problem_of(read_yaml, file) == f"{file}, line 2: not UTF-8; save the file as UTF-8"
    assert "cannot be read" in problem_of(read_yaml, tmp_path / "missing.yaml")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
    | st.floats(allow_nan=False)
    | st.integers()
)
def test_what_is_written_is_read_back(tmp_path_factory, value):
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(dump_yaml({"key": value}), encoding="utf-8")
    # Other programs read it as YAML 1.1.
    assert read_yaml(file) == yaml.safe_load(file.read_text("utf-8")) == {"key": value}


@pytest.mark.parametrize(
    "value",
    ["010", "1:30", "1e5", "yes", "None", "~", "", "0o17", "08", "2020-01-01", "null", "1_0"],
)
def test_text_that_looks_like_something_else_is_written_in_quotes(tmp_path, value):
    (tmp_path / "x.yaml").write_text(dump_yaml({"key": value}))
    assert read_yaml(tmp_path / "x.yaml") == {"key": value}
    assert yaml.safe_load((tmp_path / "x.yaml").read_text()) == {"key": value}
