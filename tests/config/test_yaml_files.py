"""YAML in files and on the command line."""

import pytest

from fedsmu_ray.config.yaml_files import parse_overrides, read_yaml
from fedsmu_ray.errors import ConfigError


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


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1\nseed: 2", "given twice"),
        ("\x00", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "missing.yaml")
