"""Methods by name, the descriptions of their options, and user methods by `import:`."""

import re
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from pydantic.fields import FieldInfo

from fedsmu_ray.algorithms.base import Method
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.algorithms.registry import METHODS, find
from fedsmu_ray.errors import ConfigError

HEADER = """
from dataclasses import dataclass
from typing import Annotated
import torch
from fedsmu_ray.algorithms import Method
from fedsmu_ray.algorithms.fedavg import FedAvg

"""
HOOKS = """
    def uplink(self, setting): return {}
    def client(self, received, state, local): return {}, {}
    def server(self, server, mean, round): return server
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Load a class with `find` from a module with the given source."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(source, name="Own"):
        module = f"own_{abs(hash(source))}"
        (tmp_path / f"{module}.py").write_text(HEADER + source, encoding="utf-8")
        return find(f"import:{module}:{name}")

    return load


@pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)
def test_every_option_has_a_default_and_a_description(cls):
    assert issubclass(cls, Method) and is_dataclass(cls) and cls() == cls()
    hints = get_type_hints(cls, include_extras=True)
    for option in fields(cls):
        parts = getattr(hints[option.name], "__metadata__", ())
        texts = [p.description for p in parts if isinstance(p, FieldInfo) and p.description]
        assert len(texts) == 1, option.name
        # One line without a full stop that fits in a cell of a Markdown table.
        assert len(texts[0]) < 200 and not re.search(r"[|\n]|\.$", texts[0]), option.name


@pytest.mark.parametrize("cls", METHODS.values(), ids=METHODS)
def test_options_are_described_once(cls):
    """An option is described at its declaration and not a second time in the docstring."""
    rows = re.findall(r"^ *\| ([\w.]+) ", cls.__doc__, re.MULTILINE)
    assert not {option.name for option in fields(cls)} & set(rows)


def test_a_name_finds_its_class():
    assert all(find(name) is cls for name, cls in METHODS.items())


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError) as error:
        find("fedsm")
    names = f"{', '.join(METHODS)}, import:<package.module>:<Class>"
    assert error.value.problems == [
        f"algorithm.name = 'fedsm': must be one of {names}; did you mean fedsmu?"
    ]
    with pytest.raises(ConfigError, match=r"= 'zzz': must be one of fedsmu, [^;]*$"):
        find("zzz")


def test_a_class_of_the_user_is_found(own):
    cls = own(f"@dataclass(frozen=True)\nclass Own(Method):\n    gain: float = 1.0{HOOKS}")
    assert cls(gain=2.0).gain == 2.0
    derived = own("@dataclass(frozen=True)\nclass Own(FedAvg):\n    gain: float = 1.0\n")
    assert [option.name for option in fields(derived)] == ["lr", "gain"]


FROZEN = "@dataclass(frozen=True)\n"


@pytest.mark.parametrize(
    "source, problem, cure",
    [
        ("def Own(): pass", "Own is not a subclass of fedsmu_ray", "derive it from Method"),
        ("class Own: pass", "Own is not a subclass of fedsmu_ray", "derive it from Method"),
        (f"class Own(Method):\n    gain: float = 1.0{HOOKS}", "Own is not a dataclass", "put @dat"),
        (
            f"@dataclass\nclass Own(Method):\n    gain: float = 1.0{HOOKS}",
            "cannot inherit non-frozen dataclass",
            r"put @dataclass\(frozen=True\)",
        ),
        (
            f"{FROZEN}class Own(Method):\n    def uplink(self, setting): return {{}}",
            "Own does not define client, server",
            "write what is missing",
        ),
        (
            f"{FROZEN}class Own(Method):\n    gain: float{HOOKS}",
            "gain without a default",
            "give it",
        ),
        (f"{FROZEN}class Own(Method):\n    name: str = ''{HOOKS}", "option name, which", "rename"),
        (
            f"{FROZEN}class Own(Method):\n    gain: torch.Tensor = None{HOOKS}",
            r"option gain of a type that a configuration cannot hold \(.*Tensor.*\)",
            "use bool, int",
        ),
        (
            f"{FROZEN}class Own(Method):\n    gain: 'Rato' = 1{HOOKS}",
            "name 'Rato' is not defined",
            "import what it names",
        ),
    ],
)
def test_a_class_that_is_no_method_is_refused_with_a_cure(own, source, problem, cure):
    with pytest.raises(ConfigError, match=f"algorithm.name = import:own_.*{problem}.*; {cure}"):
        own(source)


def test_several_problems_of_a_class_are_all_listed(own):
    with pytest.raises(ConfigError, match="2 problems") as error:
        own(f"{FROZEN}class Own(Method):\n    gain: float\n    profile: str = ''{HOOKS}")
    assert all("Own has an option" in problem for problem in error.value.problems)


@pytest.mark.parametrize("name", ["import:", "import:module", "import:a.b:", "import:a b:C"])
def test_a_malformed_import_is_refused(name):
    with pytest.raises(ConfigError, match="must be one of .*import:<package.module>:<Class>"):
        find(name)


def test_a_module_or_class_that_is_missing_is_named(own):
    with pytest.raises(ConfigError, match="algorithm.name = import:no_such_module:Own: no_such"):
        find("import:no_such_module:Own")
    with pytest.raises(ConfigError, match="has no function or class Other"):
        own(f"class Own(Method):{HOOKS}", "Other")


def test_a_name_of_the_registry_is_not_an_import():
    assert find("fedsmu") is FedSMU
