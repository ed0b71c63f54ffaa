"""Names in a configuration, and user code imported by `import:`."""

import importlib
import sys

import pytest

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


def test_a_module_that_was_removed_is_no_user_module(folder):
    """Ray can pickle by value only what is imported."""
    plugins.load("key", "import:our_package.parts:f")
    del sys.modules["our_package.parts"]
    assert plugins.user_modules() == []
