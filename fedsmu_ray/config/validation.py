"""Strict YAML -> typed, frozen configuration. Every error names its key, its value and the cure.

A configuration file is one nested mapping; the same keys, dotted, are overrides on the command line and in a
search space. The sections are the dataclasses of `sections.py`; `algorithm` is the method's own dataclass.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.loading import (
    LONGEST,
    apply,
    copied,
    flatten,
    foreign,
    parse_overrides,
    read,
    shown,
)
from fedsmu_ray.config.schema import (
    DATASET_FORMS,
    DATASETS,
    MODELS,
    PROFILES,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    FederationConfig,
    LocalConfig,
    ModelConfig,
    TrackingConfig,
    TuneConfig,
)
from fedsmu_ray.errors import ConfigError

RECIPES = (
    Path(__file__).resolve().parent.parent / "tune_configs"
)  # a wheel carries the recipes inside the package


@dataclass(frozen=True)
class Config:
    """One experiment, and the sweep around it. Build it with `load_config`."""

    algorithm: Any  # an instance of one of METHODS
    profile: str
    name: str = "experiment"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    source: Mapping[str, Any] = field(
        default_factory=dict, repr=False, compare=False
    )  # what was written, before defaults

    @property
    def method_name(self) -> str:
        return next(name for name, cls in METHODS.items() if type(self.algorithm) is cls)

    def to_dict(self) -> dict[str, Any]:
        """The nested mapping that `parse` turns into this configuration again; every default is spelled out."""
        sections = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("algorithm", "profile", "source")
        }
        plain = {k: asdict(v) if is_dataclass(v) else v for k, v in sections.items()}
        plain["algorithm"] = {
            "name": self.method_name,
            "profile": self.profile,
            **asdict(self.algorithm),
        }
        return copied(plain)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """The experiment's own settings (no `tune`, no `tracking`) by dotted key: what identifies a run."""
        return {
            k: v
            for k, v in flatten(self.to_dict()).items()
            if k.split(".")[0] not in ("tune", "tracking")
        }


SECTIONS = {f.name: f.default_factory for f in fields(Config) if is_dataclass(f.default_factory)}


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Config:
    """Read, override and check a configuration.

    path: a YAML file, or None for the built-in quickstart sweep. overrides: dotted keys, as a mapping or as
    'key=value' strings. Raises ConfigError listing everything that is wrong.
    """
    if not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides)
    return parse(apply(read(quickstart() if path is None else path), overrides))


def quickstart() -> Path:
    """tune_configs/quickstart.yaml: inside the package when installed from a wheel, else beside it."""
    inside = RECIPES / "quickstart.yaml"
    return inside if inside.exists() else RECIPES.parent.parent / "tune_configs" / "quickstart.yaml"


def parse(plain: Mapping[str, Any]) -> Config:
    """A checked Config from a nested mapping; raises ConfigError listing everything that is wrong."""
    problems = foreign(plain)
    if problems:
        raise ConfigError(problems)
    source, plain = copied(plain), dict(plain)
    algorithm = plain.pop("algorithm", None)
    if algorithm is None:
        algorithm = {}
    if not isinstance(algorithm, Mapping):
        problems.append(
            f"algorithm = {shown(algorithm)}: expected a mapping such as {{name: fedsmu}}"
        )
        algorithm = {}
    algorithm = dict(algorithm)
    name, profile = algorithm.pop("name", "fedsmu"), algorithm.pop("profile", "authors")
    problems += _choice("algorithm.name", name, METHODS) + _choice(
        "algorithm.profile", profile, PROFILES
    )
    method = METHODS.get(name if isinstance(name, str) else "", METHODS["fedsmu"])
    defaults = PROFILES.get(profile if isinstance(profile, str) else "", {})

    values: dict[str, Any] = {}
    known = {f.name for f in fields(Config)} - {"profile", "source"}
    for key in plain:
        if key not in known:
            problems.append(_unknown(key, known | set(_dotted_keys(method))))
    for key, section in SECTIONS.items():
        values[key] = _section(section, key, plain.get(key), defaults, problems)
    values["algorithm"] = (
        _section(method, "algorithm", algorithm, defaults, problems)
        if not (_choice("algorithm.name", name, METHODS))
        else None
    )
    for key in ("name", "seed"):
        hint = get_type_hints(Config, include_extras=True)[key]
        values[key] = _check(_adapter(hint), key, plain.get(key, getattr(Config, key)), problems)
    problems += _impossible(values)
    if problems:
        raise ConfigError(problems)
    return Config(profile=profile, source=source, **values)


def _section(
    cls: type, prefix: str, given: Any, defaults: Mapping[str, Any], problems: list[str]
) -> Any:
    """An instance of a section's dataclass; what is wrong is added to `problems` (and None returned)."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{prefix} = {shown(given)}: expected a mapping of keys")
        return None
    known = [f.name for f in fields(cls)]
    values = {n: defaults[f"{prefix}.{n}"] for n in known if f"{prefix}.{n}" in defaults}
    for key, value in given.items():
        if key in known:
            values[key] = value
        elif prefix == "algorithm":
            problems.append(
                _unknown(
                    f"algorithm.{key}",
                    [f"algorithm.{n}" for n in (*known, "name", "profile")],
                    f"{cls.__name__} has {', '.join(known) or 'no options'}",
                )
            )
        else:
            problems.append(_unknown(f"{prefix}.{key}", _dotted_keys(METHODS["fedsmu"])))
    for f in fields(cls):
        if is_dataclass(f.default_factory):
            values[f.name] = _section(
                f.default_factory, f"{prefix}.{f.name}", values.get(f.name), defaults, problems
            )
    # Fields that are wrong are reported and left at their defaults, so that one run lists everything.
    hints = get_type_hints(cls, include_extras=True)
    good = {}
    for key, value in values.items():
        if is_dataclass(value):
            good[key] = value
            continue
        before = len(problems)
        checked = _check(_adapter(hints[key]), f"{prefix}.{key}", value, problems)
        if len(problems) == before:
            good[key] = checked
    return cls(**good)


def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _check(adapter: TypeAdapter, key: str, value: Any, problems: list[str]) -> Any:
    try:
        return adapter.validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        # A union reports every branch; the first that is not about None says what was wanted.
        errors = [e for e in error.errors() if e["type"] != "none_required"]
        message = errors[0]["msg"].replace("Input should be", "must be").replace("'", "")
        if len(errors) > 1 or any(e["type"] == "none_required" for e in error.errors()):
            message += (
                " (or null)" if any(e["type"] == "none_required" for e in error.errors()) else ""
            )
        hint = errors[0].get("ctx", {}).get("expected")
        close = (
            difflib.get_close_matches(shown(value), re.findall(r"'([^']*)'", hint))
            if isinstance(hint, str)
            else []
        )
        meant = f"; did you mean {close[0]}?" if close else ""
        problems.append(f"{key} = {shown(value)}: {message[0].lower()}{message[1:]}{meant}")
        return None


def _choice(key: str, value: Any, choices: Mapping[str, Any]) -> list[str]:
    if isinstance(value, str) and value in choices:
        return []
    close = difflib.get_close_matches(shown(value), choices, n=1, cutoff=0.4)
    return [
        f"{key} = {shown(value)}: must be one of {', '.join(choices)}"
        + (f"; did you mean {close[0]}?" if close else "")
    ]


def _unknown(key: str, known: Any, more: str = "") -> str:
    """An unknown key with the nearest valid one: by the whole dotted key, else by its last part."""
    known, key = list(known), key[:LONGEST]
    close = difflib.get_close_matches(key, known, n=1)
    last = key.rsplit(".", 1)[-1]
    close = close or [k for k in known if k.rsplit(".", 1)[-1] == last]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return (
        f"{key}: unknown key"
        + (f"; did you mean {close[0]}?" if close else "")
        + (f" ({more})" if more else "")
    )


def _impossible(values: Mapping[str, Any]) -> list[str]:
    """Values that are each fine and together impossible."""
    data, federation, compute = values["data"], values["federation"], values["compute"]
    problems = _named(data, values["model"]) + _places(values)
    if data and federation and federation.cohort > data.clients:
        problems.append(
            f"federation.cohort = {federation.cohort}: only data.clients = {data.clients} clients exist; "
            "lower the cohort or raise data.clients"
        )
    if federation and federation.min_cohort > federation.cohort:
        problems.append(
            f"federation.min_cohort = {federation.min_cohort}: only federation.cohort = {federation.cohort} "
            "clients are asked in a round; lower it"
        )
    if (
        compute
        and compute.executor == "inline"
        and federation
        and federation.client_timeout_s is not None
    ):
        problems.append(
            f"federation.client_timeout_s = {federation.client_timeout_s}: compute.executor=inline cannot stop a "
            "client that hangs; use compute.executor=ray or remove it"
        )
    if (
        compute
        and compute.gpus_per_actor > 1
        and compute.gpus_per_actor != int(compute.gpus_per_actor)
    ):
        problems.append(
            f"compute.gpus_per_actor = {compute.gpus_per_actor}: above 1 GPU must be a whole number; "
            "a client actor uses one GPU or a fraction of one"
        )
    if compute and compute.executor == "inline" and compute.gpus_per_actor:
        problems.append(
            f"compute.gpus_per_actor = {compute.gpus_per_actor}: compute.executor=inline trains on the CPU of "
            "this process; use compute.executor=ray"
        )
    if compute and compute.precision == "tf32" and not compute.gpus_per_actor:
        problems.append(
            "compute.precision = tf32: only GPUs have it, and compute.gpus_per_actor = 0; set gpus_per_actor, or "
            "use float32 or bfloat16"
        )
    return problems


_IMPORT = r"import:\w+(\.\w+)*:\w+$"


def _places(values: Mapping[str, Any]) -> list[str]:
    """A name that is no part of a path, and folders whose home is not known."""
    problems = []
    name = values["name"]
    if name is not None and not re.fullmatch(r"\w[\w .,=+()@-]{0,99}", name):
        problems.append(
            f"name = {shown(name)}: must begin with a letter or digit and hold up to 100 letters, digits, spaces "
            "and .,=+()@_-, since folders are named after it"
        )
    for key, section in (
        ("data.root", "data"),
        ("checkpoint.folder", "checkpoint"),
        ("tune.storage", "tune"),
    ):
        value = getattr(values[section], key.split(".")[1], None)
        if value == "":
            problems.append(f"{key} = '': must be a folder")
        try:
            Path(value or ".").expanduser()
        except RuntimeError:
            problems.append(f"{key} = {shown(value)}: there is no such home; write the whole path")
    return problems


def _named(data: DataConfig | None, model: ModelConfig | None) -> list[str]:
    """Names of data sets and models that there are not, and options of other models."""
    problems = []
    if data and not re.match(rf"hf:.|{_IMPORT}", data.dataset):
        problems += _choice(
            "data.dataset", data.dataset, dict.fromkeys((*DATASETS, *DATASET_FORMS))
        )
    if model and not re.match(rf"torchvision:\w+$|{_IMPORT}", model.name):
        problems += _choice("model.name", model.name, MODELS)
    if model and not problems:
        for key in model.unused():
            users = ", ".join(name for name, options in MODELS.items() if key in options)
            problems.append(
                f"model.{key} = {shown(getattr(model, key))}: {model.name} does not read it (only {users}); "
                "remove it"
            )
    return problems


def _dotted_keys(method: type) -> list[str]:
    def below(cls: type, prefix: str) -> list[str]:
        keys = []
        for f in fields(cls):
            keys += (
                below(f.default_factory, f"{prefix}{f.name}.")
                if is_dataclass(f.default_factory)
                else [f"{prefix}{f.name}"]
            )
        return keys

    keys = [
        "name",
        "seed",
        "algorithm.name",
        "algorithm.profile",
        *(f"algorithm.{f.name}" for f in fields(method)),
    ]
    return keys + [k for name, cls in SECTIONS.items() for k in below(cls, f"{name}.")]
