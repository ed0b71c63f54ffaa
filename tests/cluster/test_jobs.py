"""Jobs of a cluster: which recipes can be sent."""

from pathlib import Path

import pytest

from fedsmu_ray.cluster.jobs import check_recipe
from fedsmu_ray.errors import ConfigError

CHECKOUT = Path(__file__).parent.parent.parent


def test_a_recipe_is_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    check_recipe("my.yaml")
    for path, words in (("absent.yaml", "no such file"), (f"{tmp_path}/my.yaml", "go there")):
        with pytest.raises(ConfigError, match=words):
            check_recipe(path)


def test_a_recipe_of_the_package_is_sent_with_a_checkout(tmp_path, monkeypatch):
    """The tests run in one, whose recipes lie beside the package."""
    monkeypatch.chdir(CHECKOUT)
    check_recipe("mnist")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="mnist: .*copy it here: fedsmu recipes cp mnist"):
        check_recipe("mnist")
