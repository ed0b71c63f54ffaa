"""From plain data to a typed configuration.

All problems are listed, each with its key, its value and the cure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from fedsmu_ray import plugins
from fedsmu_ray.algorithms import registry as methods
from fedsmu_ray.algorithms.base import Method
from fedsmu_ray.config import combinations
from fedsmu_ray.config.plain_data import deep_copy, find_unsupported_values, format_value
from fedsmu_ray.config.schema import PROFILES, SECTIONS, Config, declared_keys, subsection
from fedsmu_ray.config.values import check_choice, check_value, unknown_key
from fedsmu_ray.errors import ConfigError, Problems
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.models import registry as models
from fedsmu_ray.models.base import Model

DEFAULT_METHOD, DEFAULT_MODEL, DEFAULT_PROFILE = "fedsmu", "mlp", "authors"
_SINGLE_KEYS = ("name", "seed")  # outside the sections
MOVED = {"tune.targets": "federation.targets"}  # keys of earlier releases


def parse(plain: Mapping[str, Any]) -> Config:
    """A checked configuration from a nested mapping; raises ConfigError that lists all problems."""
    problems = Problems(find_unsupported_values(plain))
    if problems:
        raise ConfigError(problems)
    source: dict[str, Any] = deep_copy(plain)
    algorithm = _mapping("algorithm", source.get("algorithm"), problems)
    profile = algorithm.pop("profile", DEFAULT_PROFILE)
    defaults = PROFILES[profile] if check_choice("algorithm.profile", profile, problems) else {}
    method_name = algorithm.pop("name", DEFAULT_METHOD)
    method = _method(method_name, algorithm, defaults, problems)
    model_options = _mapping("model", source.get("model"), problems)
    model_name = model_options.pop("name", DEFAULT_MODEL)
    model = _model(model_name, model_options, problems)

    known = [*_SINGLE_KEYS, "algorithm", "model", *SECTIONS]
    if unknown := [key for key in source if key not in known]:
        nearest = [*known, *known_keys(type(method) if method else None)]
        problems += [unknown_key(key, nearest) for key in unknown]
    values = {name: value for name, value in source.items() if name in _SINGLE_KEYS}
    values = _valid(Config, "", values, {}, problems)
    for name, cls in SECTIONS.items():
        values[name] = _section(cls, name, source.get(name), defaults, problems)
        if name == "task":
            defaults = {**defaults, "tune.metric": values["task"].judged(values["data"].validation)}
        if name in ("task", "federation"):  # which may name functions of the user's
            try:
                values[name].load()
            except ConfigError as error:
                problems.take(error)
    if values["local"].steps is not None and "epochs" not in source["local"]:
        values["local"] = replace(values["local"], epochs=None)
    problems += combinations.check(values, method_name, method)
    if problems or method is None or model is None:
        raise ConfigError([cut_text(problem) for problem in problems]) from problems.cause
    return Config(method, method_name, profile, model, model_name, source=source, **values)


def parse_section(name: str, given: object) -> Any:
    """One section of a configuration without the rest of it; raises ConfigError.

    Nothing of the user's is imported.
    """
    problems = Problems()
    section = _section(SECTIONS[name], name, given, {}, problems)
    if problems:
        raise ConfigError([cut_text(problem) for problem in problems])
    return section


def known_keys(method: type[Method] | None = None) -> list[str]:
    """Every dotted key of a configuration, with the options of `method` (default: FedSMU)."""
    method = method or methods.METHODS[DEFAULT_METHOD]
    return [
        *_SINGLE_KEYS,
        "algorithm.name",
        "algorithm.profile",
        *(f"algorithm.{f.name}" for f in fields(method)),
        "model.name",
        *(f"model.{name}" for name in model_options()),
        *(key for name, cls in SECTIONS.items() for key, _ in declared_keys(cls, f"{name}.")),
    ]


def all_keys() -> list[str]:
    """Every dotted key, with the options of all methods; config/keys.txt lists them, too."""
    methods_keys = [key for method in methods.METHODS.values() for key in known_keys(method)]
    return sorted(set(methods_keys))


def model_options() -> dict[str, list[str]]:
    """The options of all models by name, each with the names of the models that have it."""
    options: dict[str, list[str]] = {}
    for name, cls in models.MODELS.items():
        for f in fields(cls):
            options.setdefault(f.name, []).append(name)
    return options


def _mapping(key: str, given: object, problems: list[str]) -> dict[str, Any]:
    """A copy of a section as written; empty if it is left out or (a problem) not a mapping."""
    if isinstance(given, Mapping):
        return dict(given)
    if given is not None:
        problems.append(f"{key} = {format_value(given)}: expected a mapping of keys")
    return {}


def _valid(
    cls: type,
    prefix: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    problems: list[str],
) -> dict[str, Any]:
    """The given values that are valid, and the profile's defaults (by dotted key) for others.

    An invalid value is a problem, and its key keeps the default of the class, so that one call
    finds all problems.
    """
    names = [f.name for f in fields(cls)]
    values = {n: defaults[f"{prefix}{n}"] for n in names if f"{prefix}{n}" in defaults}
    values |= {name: value for name, value in given.items() if name in names}
    valid = {}
    for name, value in values.items():
        before = len(problems)
        checked = check_value(cls, name, f"{prefix}{name}", value, problems)
        if len(problems) == before:
            valid[name] = checked
    return valid


def _section(
    cls: type, name: str, given: object, defaults: Mapping[str, Any], problems: list[str]
) -> Any:
    """An instance of a section's class, with those of its subsections."""
    written = _mapping(name, given, problems)
    sections = {f.name: section for f in fields(cls) if (section := subsection(f))}
    names = [f.name for f in fields(cls)]
    for key in [key for key in written if f"{name}.{key}" in MOVED]:
        if written.pop(key):  # files of earlier releases have it, empty
            problems.append(f"{name}.{key}: is {MOVED[f'{name}.{key}']} now; write it there")
    problems += [unknown_key(f"{name}.{k}", known_keys()) for k in written if k not in names]
    inner = {
        key: _section(section, f"{name}.{key}", written.pop(key, None), defaults, problems)
        for key, section in sections.items()
    }
    return cls(**_valid(cls, f"{name}.", written, defaults, problems), **inner)


def _method(
    name: Any, given: Mapping[str, Any], defaults: Mapping[str, Any], problems: Problems
) -> Method | None:
    """The method with its options; None if its class or an instance cannot be created."""
    if not check_choice("algorithm.name", name, problems):
        return None
    try:
        cls = methods.find(name)
        options = [f.name for f in fields(cls)]
        nearest = [f"algorithm.{option}" for option in (*options, "name", "profile")]
        has = f"{cls.__name__} has {', '.join(options) or 'no options'}"
        problems += [unknown_key(f"algorithm.{k}", nearest, has) for k in given if k not in options]
        values = _valid(cls, "algorithm.", given, defaults, problems)
        method: Method = plugins.call("algorithm.name", name, cls, **values)
        return method
    except ConfigError as error:
        problems.take(error)
        return None


def _model(name: Any, given: Mapping[str, Any], problems: Problems) -> Model | None:
    """The model with its options, where null stands for the default; None for an unknown name."""
    users = model_options()
    problems += [unknown_key(f"model.{key}", known_keys()) for key in given if key not in users]
    if not check_choice("model.name", name, problems):
        return None
    cls = models.find(name)
    # Files of older versions spell out the options of all models, null for those of other models.
    given = {key: value for key, value in given.items() if key in users and value is not None}
    own = {f.name for f in fields(cls)}
    problems += [
        f"model.{key} = {format_value(tuple(value) if isinstance(value, list) else value)}: {name} "
        f"does not read it (only {', '.join(users[key])}); remove it"
        for key, value in given.items()
        if key not in own
    ]
    model: Model = cls(**_valid(cls, "model.", given, {}, problems))
    try:
        model.load(name)
    except ConfigError as error:
        problems.take(error)
    return model
