"""The recipes of the package: listed, shown, copied."""

import pytest

from fedsmu_ray.commands.recipes import main
from fedsmu_ray.files import recipes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["ls"]])
def test_recipes_are_listed_with_their_first_sentence(folder, capsys, arguments):
    assert main(arguments) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(rows) == recipes.names()
    assert rows["shakespeare"] == (
        "Next-character prediction on LEAF's Shakespeare with 100 speaking roles as clients, in a "
        "short version for a CPU: one local epoch and 20 rounds"
    )


def test_a_recipe_is_shown_and_copied_as_it_is(folder, capsys):
    assert main(["show", "mnist"]) == 0
    shown = capsys.readouterr().out
    assert main(["cp", "mnist"]) == 0
    assert (folder / "mnist.yaml").read_text() == shown
    (folder / "sub").mkdir()
    assert main(["cp", "mnist", "sub"]) == main(["cp", "mnist", "sub/my.yaml"]) == 0
    assert {file.name for file in (folder / "sub").iterdir()} == {"mnist.yaml", "my.yaml"}


def test_a_file_is_not_overwritten(folder, capsys):
    (folder / "mnist.yaml").write_text("mine")
    assert main(["cp", "mnist"]) == 2
    assert "mnist.yaml: exists and is not overwritten" in capsys.readouterr().err
    assert (folder / "mnist.yaml").read_text() == "mine"


@pytest.mark.parametrize("command", ["show", "cp"])
def test_an_unknown_recipe_is_named_with_the_nearest(folder, capsys, command):
    assert main([command, "mnst"]) == 2
    assert "mnst: no recipe has this name; recipes are bytes_to_target, cifar10, " in (
        err := capsys.readouterr().err
    )
    assert err.endswith("did you mean mnist?\n") and not list(folder.iterdir())
