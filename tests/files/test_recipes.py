"""The recipes of the package by name."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import recipes

FOLDER = Path(__file__).parent.parent.parent / "tune_configs"


def test_every_recipe_has_a_name_and_a_sentence():
    assert recipes.names() == sorted(file.stem for file in FOLDER.glob("*"))
    assert {recipes.path(name) for name in recipes.names()} == set(FOLDER.iterdir())
    assert all(20 < len(recipes.first_sentence(file)) < 240 for file in FOLDER.iterdir())


def test_a_name_is_a_recipe_unless_there_is_such_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()  # data, say
    assert recipes.find("mnist") == FOLDER / "mnist.yaml"
    assert recipes.find(None) == FOLDER / "quickstart.yaml"
    (tmp_path / "quickstart").write_text("name: mine")
    for file in ("quickstart", tmp_path / "quickstart", "absent/file.yaml", "absent.yaml"):
        assert recipes.find(file) == file
    assert recipes.find("s3://bucket/mnist") == "s3://bucket/mnist"


def test_a_wheel_has_the_recipes(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(FOLDER.parent)).build(directory=str(tmp_path / "dist"))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    code = "from fedsmu_ray.files import recipes as r; print(r.path('mnist'), *r.names())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    file = tmp_path / "installed" / "fedsmu_ray" / "tune_configs" / "mnist.yaml"
    assert done.stdout.split() == [str(file), *recipes.names()], done.stderr


@pytest.mark.parametrize(
    "given, message",
    [
        ("mnst", "mnst: neither a file nor a recipe; recipes are bytes_to_target, .*mean mnist"),
        ("tune_configs/mnist.yaml", "no such file; the recipe of this package is named mnist"),
        ("mnist.yaml", "mnist.yaml: no such file; the recipe of this package is named mnist"),
    ],
)
def test_what_is_neither_file_nor_recipe_is_refused_with_what_may_be_meant(
    tmp_path, monkeypatch, given, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        recipes.find(given)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("# One 8x8 is 0.1. Two.\nname: x\n", "One 8x8 is 0.1"),
        ("# One\n# goes on.\n# Two.\n\nname: x\n", "One goes on"),
        ("# Only a head: ", "Only a head"),
        ("name: x\n", ""),
    ],
)
def test_the_first_sentence_of_the_head(tmp_path, text, sentence):
    (tmp_path / "a.yaml").write_text(text)
    assert recipes.first_sentence(tmp_path / "a.yaml") == sentence
