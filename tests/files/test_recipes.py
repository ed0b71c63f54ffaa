"""The recipes of the package by name."""

from pathlib import Path

import pytest

from fedsmu_ray.files import recipes

FOLDER = Path(__file__).parent.parent.parent / "tune_configs"


def test_every_recipe_has_a_name_and_a_sentence():
    assert recipes.names() == sorted(file.stem for file in FOLDER.glob("*"))
    assert {recipes.path(name) for name in recipes.names()} == set(FOLDER.iterdir())
    assert all(20 < len(recipes.first_sentence(file)) < 240 for file in FOLDER.iterdir())


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
