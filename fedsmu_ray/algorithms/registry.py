"""The methods by name: those of this package, and the user's own."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from fedsmu_ray import plugins
from fedsmu_ray.algorithms.base import Method
from fedsmu_ray.algorithms.dlion import DLion
from fedsmu_ray.algorithms.ef21 import EF21
from fedsmu_ray.algorithms.fed_ef import FedEF
from fedsmu_ray.algorithms.fedams import FedAMS, FedCAMS
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedavgm import FedAvgM
from fedsmu_ray.algorithms.feddyn import FedDyn
from fedsmu_ray.algorithms.fedlion import FedLion
from fedsmu_ray.algorithms.fednova import FedNova
from fedsmu_ray.algorithms.fedopt import FedAdam, FedYogi
from fedsmu_ray.algorithms.fedprox import FedProx
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.algorithms.fedsmu_variants import FedGlobalLion, FedLocalLion, FedSMUMC
from fedsmu_ray.algorithms.scaffold import Scaffold
from fedsmu_ray.algorithms.scallion import Scallion
from fedsmu_ray.algorithms.signsgd_mv import SignSGDMV
from fedsmu_ray.errors import ConfigError

METHODS: dict[str, type[Method]] = {
    "fedsmu": FedSMU,
    "fedsmu_mc": FedSMUMC,
    "fed_local_lion": FedLocalLion,
    "fed_global_lion": FedGlobalLion,
    "fedavg": FedAvg,
    "scaffold": Scaffold,
    "scallion": Scallion,
    "fed_ef": FedEF,
    "fedlion": FedLion,
    "ef21": EF21,
    "fedams": FedAMS,
    "fedcams": FedCAMS,
    "dlion": DLion,
    "signsgd_mv": SignSGDMV,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "feddyn": FedDyn,
    "fednova": FedNova,
}

# Names, and the form of names, that `algorithm.name` may have; None: a class of the user's.
NAMES: dict[str, type[Method] | None] = {**METHODS, "import:<package.module>:<Class>": None}
RESERVED = ("name", "profile")  # keys of the section `algorithm` that are not options of a method


def find(name: str) -> type[Method]:
    """The class of a method: an entry of METHODS, or `import:package.module:Class`.

    Raises ConfigError, which names `algorithm.name`, for an unknown name and for a class that is
    not a method.
    """
    known = plugins.lookup("algorithm.name", name, NAMES)
    if known is not None:
        return known
    found = _load(name)
    problems = _class_problems(found)
    if problems:
        label = getattr(found, "__name__", str(found))
        raise ConfigError([f"algorithm.name = {name}: {label} {problem}" for problem in problems])
    method: type[Method] = found  # type: ignore[assignment] # _class_problems has checked it
    return method


def _load(name: str) -> object:
    try:
        return plugins.load("algorithm.name", name)
    except ConfigError as error:
        if "cannot inherit non-frozen dataclass" not in str(error):
            raise
        cure = "put @dataclass(frozen=True) above the class"
        raise ConfigError([f"{problem}; {cure}" for problem in error.problems]) from error


def _class_problems(found: object) -> list[str]:
    """What keeps an imported object from being a method's class, with the cure."""
    if not isinstance(found, type) or not issubclass(found, Method):
        return ["is not a subclass of fedsmu_ray.algorithms.Method; derive it from Method"]
    # Inherited parameters of a dataclass do not know the fields of this class.
    if "__dataclass_params__" not in vars(found):
        return ["is not a dataclass; put @dataclass(frozen=True) above it"]
    problems = []
    if found.__abstractmethods__:
        missing = ", ".join(sorted(found.__abstractmethods__))
        problems.append(f"does not define {missing}; write what is missing (see Method)")
    return problems + _option_problems(found)


def _option_problems(method: type[Method]) -> list[str]:
    try:
        hints = get_type_hints(method, include_extras=True)
    except Exception as error:
        return [f"has a type annotation that cannot be evaluated ({error}); import what it names"]
    problems = []
    for option in fields(method):
        where = f"has an option {option.name}"
        if option.name in RESERVED:
            problems.append(f"{where}, which is a key of the section `algorithm` itself; rename it")
        if option.default is MISSING and option.default_factory is MISSING:
            problems.append(f"{where} without a default; give it one")
        if not _is_readable(hints[option.name]):
            problems.append(
                f"{where} of a type that a configuration cannot hold ({option.type}); "
                "use bool, int, float, str, Literal or tuples of them"
            )
    return problems


def _is_readable(hint: Any) -> bool:
    try:
        TypeAdapter(hint)
    except Exception:
        return False
    return True
