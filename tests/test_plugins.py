"""Names in a configuration, and user code imported by `import:`."""

import importlib
import os
import signal
import sys
import types

import pytest
import torch

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError

REGISTRY = {"one": 1, "hf:<name or path>": 2, "import:<package.module>:<function>": 3}


@pytest.mark.parametrize(
    "name, entry",
    [("one", 1), ("hf:a/b c", 2), ("import:a.b:c", 3), ("import:mine:model", 3)],
)
def test_names_and_forms_are_found(name, entry):
    assert plugins.lookup("key", name, REGISTRY) == entry


@pytest.mark.parametrize(
    "name",
    [
        "oone",
        "",
        "hf:",
        "import:..x:f",
        "import:a",
        "import:a:b:c",
        "import:<package.module>:<function>",
        None,
        3,
    ],
)
def test_other_names_are_refused_with_all_choices(name):
    with pytest.raises(
        ConfigError, match="key = .*: must be one of one, hf:<name or path>, import:"
    ):
        plugins.lookup("key", name, REGISTRY)


def test_the_nearest_name_is_suggested():
    with pytest.raises(ConfigError, match=r"key = 'oone': must be one of .*; did you mean one\?"):
        plugins.lookup("key", "oone", REGISTRY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with user code.

    It holds a package that imports a module beside it, an unrelated module, and an installed one.
    """
    place, unrelated = tmp_path / "work", tmp_path / "elsewhere"
    installed = place / "lib" / "site-packages"
    for made in (place / "our_package", unrelated, installed):
        made.mkdir(parents=True)
    (place / "our_package" / "__init__.py").touch()
    (place / "our_package" / "parts.py").write_text(
        "import beside\nimport json\ndef f(): return beside.x\n"
    )
    (place / "beside.py").write_text("x = 1\n")
    (unrelated / "unrelated.py").touch()
    (installed / "installed.py").write_text("def f(): pass\n")
    (place / "needs_more.py").write_text("import not_installed_anywhere\n")
    before = set(sys.modules)
    for path in (place, unrelated, installed):
        monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_folders", [])
    yield place
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_user_modules_are_those_loaded_and_those_beside_them(folder):
    assert plugins.user_modules() == []
    for name in ("unrelated", "numpy"):
        importlib.import_module(name)
    assert plugins.load("key", "import:our_package.parts:f")() == 1
    plugins.load("key", "import:installed:f")
    names = [module.__name__ for module in plugins.user_modules()]
    assert names[0] == "our_package.parts"
    assert sorted(names) == ["beside", "our_package", "our_package.parts"]


def test_a_missing_module_of_the_users_module_is_named(folder):
    with pytest.raises(
        ConfigError, match="needs_more imports a module that is not installed: not_inst"
    ):
        plugins.load("key", "import:needs_more:f")
    with pytest.raises(ConfigError, match="our_package.absent cannot be imported .*PYTHONPATH"):
        plugins.load("key", "import:our_package.absent:f")
    with pytest.raises(ConfigError, match=r"beside \(.*beside.py\) has no function or class x"):
        plugins.load("key", "import:beside:x")


def test_the_folders_that_were_searched_are_named(folder, monkeypatch):
    """Those that hold installed packages are not worth a word."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    plugins.search_in([str(folder / "our_package")])
    with pytest.raises(ConfigError) as caught:
        plugins.load("key", "import:absent:f")
    text = str(caught.value)
    searched = text.split("searched: ")[1].split(" and what is installed")[0].split(", ")
    assert searched[0] == str(folder / "our_package")
    assert {str(folder.parent), str(folder.parent / "elsewhere"), str(folder)} <= set(searched)
    assert not [place for place in searched if "site-packages" in place or "lib/python" in place]


def test_of_many_searched_folders_the_first_are_named_and_the_cure_is_not_cut(folder, monkeypatch):
    many = [folder.parent / f"folder-{i}-{'x' * 60}" for i in range(30)]
    for each in many:
        each.mkdir()
    monkeypatch.setattr(sys, "path", [*map(str, many), *sys.path])
    with pytest.raises(
        ConfigError, match="folder-4.*more folders and what is.*PYTHONPATH"
    ) as caught:
        plugins.load("key", "import:absent:f")
    assert "folder-5" not in str(caught.value)


def test_a_module_beside_the_recipe_comes_before_others_of_its_name(folder):
    (folder / "our_package" / "unrelated.py").write_text("def f(): return 'of the recipe'\n")
    plugins.search_in([str(folder / "our_package")])
    assert plugins.load("key", "import:unrelated:f")() == "of the recipe"
    assert [module.__name__ for module in plugins.user_modules()][0] == "unrelated"
    assert plugins.code_folders() == [str(folder / "our_package")]


def test_a_second_recipe_does_not_get_the_module_of_the_first(folder):
    """Both are called `same`, and a process can import only one."""
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "same.py").write_text(f"def f(): return '{name}'\n")
    plugins.search_in([str(folder / "first")])
    assert plugins.load("key", "import:same:f")() == "first"
    plugins.search_in([str(folder / "second")])
    with pytest.raises(ConfigError, match="same is .*second/same.py, but this .*first/same.py"):
        plugins.load("key", "import:same:f")
    plugins.search_in([str(folder / "first")])
    assert plugins.load("key", "import:same:f")() == "first"


def test_a_module_that_was_removed_is_no_user_module(folder):
    """Ray can pickle by value only what is imported."""
    plugins.load("key", "import:our_package.parts:f")
    del sys.modules["our_package.parts"]
    assert plugins.user_modules() == []


def test_what_is_not_defined_is_named_with_the_nearest_or_a_cure(folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"has no function or class ff; did you mean f\?"):
        plugins.load("key", "import:our_package.parts:ff")
    for main in (types.ModuleType("__main__"), None):  # a notebook's has no file
        if main:
            monkeypatch.setitem(sys.modules, "__main__", main)
        with pytest.raises(ConfigError, match="no function or class missing.*notebook, run the ce"):
            plugins.load("key", "import:__main__:missing")


def test_a_script_that_ends_when_imported_is_reported(folder, capsys):
    """It does not see the arguments of this program, and its usage line is about itself."""
    (folder / "script.py").write_text(
        "import argparse\np = argparse.ArgumentParser()\n"
        "p.add_argument('--epochs', required=True)\np.parse_args()\n"
    )
    arguments = list(sys.argv)
    with pytest.raises(ConfigError, match=r"script ends the program when it is .*SystemExit: 2 .*"):
        plugins.load("key", "import:script:f")
    assert "usage: script.py [-h] --epochs EPOCHS" in capsys.readouterr().err
    assert sys.argv == arguments


def test_what_an_import_changes_for_the_process_is_put_back(folder):
    before = os.getcwd(), signal.getsignal(signal.SIGINT), torch.get_default_dtype(), sys.argv
    (folder / "meddling.py").write_text(
        "import os, signal, sys, torch\nos.chdir('/')\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
        "\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\nseen = sys.argv\n"
        "def f(): torch.set_default_device('meta'); return seen\n"
    )
    function = plugins.load("key", "import:meddling:f")
    after = os.getcwd(), signal.getsignal(signal.SIGINT), torch.get_default_dtype(), sys.argv
    assert after == before and torch.is_grad_enabled()
    assert plugins.call("key", "name", function) == ["meddling.py"]
    assert torch.zeros(1).device.type == "cpu"


def takes(shape, classes, name="relu", *, key=1, function=2):
    return shape, classes, name, key, function


def everything(*arguments, **options):
    return arguments, options


def test_options_of_a_function_may_have_any_name():
    options = {"name": "tanh", "key": 3, "function": 4}
    assert plugins.call("key", "name", takes, 5, 6, **options) == (5, 6, "tanh", 3, 4)
    options |= {"self": 1, "arguments": 2, "options": 3, "cls": 4}
    assert plugins.call("key", "name", everything, 5, **options) == ((5,), options)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (
            (1, 2),
            {"nme": 3},
            r"k = n: it takes no option nme, only name, key, function; did .* name",
        ),
        ((1, 2), {"shape": 3}, "its parameter shape is not an option; remove it from the options"),
        (
            (1,),
            {},
            r"with 1 arguments and 0 options \(missing a .*'classes'\): it takes \(shape, cl",
        ),
        ((1, 2, 3, 4), {}, r"cannot be called with 4 arguments .*too many positional"),
    ],
)
def test_a_call_that_does_not_fit_the_function_is_explained(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        plugins.call("k", "n", takes, *arguments, **options)


@pytest.mark.parametrize("error", [TypeError("of its own"), SystemExit(3), GeneratorExit()])
def test_whatever_a_function_raises_is_reported_with_its_line(error):
    def raising():
        raise error

    kind = type(error).__name__
    with pytest.raises(ConfigError, match=rf"k = n: it raised {kind}.*test_plugins.py:\d+\); corr"):
        plugins.call("k", "n", raising)


def test_an_interrupt_is_not_taken_for_an_error_of_the_function():
    def raising():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plugins.call("k", "n", raising)
