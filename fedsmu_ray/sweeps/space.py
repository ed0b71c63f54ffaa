"""The trials of a sweep, as a pure function of its configuration.

A search space (`tune.space`) maps dotted keys to one of:

    {grid: [a, b]}               every value, in combination with all other grids
    {choice: [a, b]}             one of them, at random
    {uniform: [low, high]}       a random float
    {loguniform: [low, high]}    a random float, uniform in its logarithm
    [a, b]                       a grid, in short
    a plain value                fixed for the sweep

Each combination is a setting, which `tune.seeds` runs with several seeds; so are the baselines. A
trial is one run of a setting.

Several keys that share one value are written together: "algorithm.beta1, algorithm.beta2". A value
that is itself a list is in a list: `model.hidden: [[200, 200]]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.config.plain_data import apply_overrides, deep_copy, flatten_keys
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.config.validation import known_keys, parse
from fedsmu_ray.display.formatting import describe_params
from fedsmu_ray.errors import MAX_PROBLEMS, ConfigError
from fedsmu_ray.numerics.streams import host_generator

MAX_TRIALS = 100_000
SEED = "seed"
KINDS = ("grid", "choice", "uniform", "loguniform")
INTERVALS = ("uniform", "loguniform")
SWEEP_KEYS = (
    "tune",
    "tracking",
    "name",
    "data.validation",
    "federation.targets",
)  # the same for all trials

Params = Mapping[str, Any]  # of one trial: dotted key (or several, comma-separated) -> value


class Dimension(NamedTuple):
    """One entry of a search space."""

    kind: str  # one of KINDS
    values: list[Any]  # of an interval: [low, high]


@dataclass(frozen=True, repr=False)
class TrialSpec:
    """One trial of a sweep, with its configuration.

    It is parsed once; Ray Tune passes it to all code that deals with the trial.
    """

    index: int  # in the sweep, from 0
    params: Params
    config: Config
    data_folder: Path  # as the sweep's own process sees it, which may have another environment

    @staticmethod
    def of(sweep: Config, index: int, params: Params) -> TrialSpec:
        """Trial `index` of a sweep; raises ConfigError if its configuration is not valid."""
        config = trial_config(sweep, params)
        return TrialSpec(index, deep_copy(params), config, config.data.folder().absolute())

    @staticmethod
    def from_tune(config: Mapping[str, Any]) -> TrialSpec:
        """The trial that Tune's configuration of it holds."""
        spec: TrialSpec = config["trial"]
        return spec

    def to_tune(self) -> dict[str, Any]:
        """The trial as Tune's configuration of it."""
        return {"trial": self}

    @property
    def name(self) -> str:
        """Index and parameters, such as `003 lr=0.1`: the name of the trial's run."""
        return f"{self.index:03d} {describe_params(self.params)}".strip()

    def __repr__(self) -> str:
        return f"trial {self.index:03d}"  # Tune makes tags of it

    def __deepcopy__(self, memo: dict[int, Any]) -> TrialSpec:
        return self  # it is immutable, and Tune copies it several times


def check(config: Config) -> None:
    """Parse the configuration of every trial; raises ConfigError listing what is wrong.

    The trials of Optuna are not known yet: instead of them, the ends of every range are checked.
    """
    candidates = _candidates(config)
    if not candidates:
        raise ConfigError(
            [
                "tune.space: empty, so there is nothing to sweep; add keys, as in "
                "tune.space.local.lr={grid: [0.05, 0.1]}"
            ]
        )
    problems: dict[str, None] = {}  # in order, without duplicates
    cause = None
    for params in candidates:
        try:
            trial_config(config, params)
        except ConfigError as error:
            problems.update(dict.fromkeys(f"trial {params}: {p}" for p in error.problems))
            cause = cause or error
    if problems:
        raise ConfigError(list(problems)[:MAX_PROBLEMS]) from cause
    _check_compared(config)


def _check_compared(config: Config) -> None:
    """Raise ConfigError if no baseline has the method of `tune.compare_to`."""
    wanted = config.tune.compare_to
    methods = {trial_config(config, params).method_name for params in baselines(config.tune)}
    if wanted is not None and wanted not in methods:
        has = f"they have {', '.join(sorted(methods))}" if methods else "there are none"
        raise ConfigError(
            [f"tune.compare_to = {wanted!r}: none of tune.baselines has this method; {has}"]
        )


def computes(config: Config) -> list[ComputeConfig]:
    """The different `compute` sections of the trials that `check` has parsed."""
    own = (
        {k: v for k, v in split_keys(p).items() if k.startswith("compute.")}
        for p in _candidates(config)
    )
    different = {repr(sorted(params.items())): params for params in own}
    return [trial_config(config, params).compute for params in different.values()]


def _candidates(config: Config) -> list[Params]:
    """The parameters that `check` parses."""
    if config.tune.search != "optuna":
        if (count := _count(config.tune)) > MAX_TRIALS:
            raise ConfigError(
                [
                    f"tune.space: {count:,} trials, more than the {MAX_TRIALS:,} that a sweep may "
                    "have; shorten its grids, lower tune.samples or tune.seeds, or draw from the "
                    "grids with tune.search=random"
                ]
            )
        return [with_seeds(config, params)[0] for params in list_settings(config)]
    if find_spec("optuna") is None:
        raise ConfigError(
            [
                "tune.search = 'optuna': the package is not installed; pip install "
                "'fedsmu-ray[optuna]'"
            ]
        )
    found = baselines(config.tune) + _corners(config.tune)
    return [with_seeds(config, params)[0] for params in found]


def trial_config(sweep: Config, params: Params) -> Config:
    """The configuration of one trial; raises ConfigError."""
    overrides = split_keys(params)
    outside = [key for key in overrides if {key, key.split(".")[0]} & {*SWEEP_KEYS}]
    if outside:
        raise ConfigError(
            [f"{key}: belongs to the sweep as a whole and cannot be swept" for key in outside]
        )
    if len(overrides) < len(names := [name for keys in params for name in _names(keys)]):
        twice = {name for name in names if names.count(name) > 1}
        raise ConfigError([f"{name}: given twice in tune.space" for name in sorted(twice)])
    return parse(apply_overrides(sweep.source, overrides))


def split_keys(params: Params) -> dict[str, Any]:
    """Overrides of single keys from parameters whose keys may be several, comma-separated."""
    return {name: value for keys, value in params.items() for name in _names(keys)}


def _names(keys: str) -> list[str]:
    return [name.strip() for name in keys.split(",")]


def list_params(config: Config) -> list[Params]:
    """The parameters of every trial of a grid or random search: all seeds of each setting."""
    return [params for each in list_settings(config) for params in with_seeds(config, each)]


def seed_count(tune: TuneConfig) -> int:
    """How many trials a setting has."""
    return tune.seeds if isinstance(tune.seeds, int) else len(tune.seeds)


def with_seeds(config: Config, params: Params) -> list[Params]:
    """The parameters of the trials of a setting; raises ConfigError if it has its own seed."""
    seeds = config.tune.seeds
    if seeds == 1:
        return [params]
    if SEED in split_keys(params):
        raise ConfigError(["seed: given in tune.space or tune.baselines, and by tune.seeds"])
    listed = range(config.seed, config.seed + seeds) if isinstance(seeds, int) else seeds
    return [{**params, SEED: seed} for seed in listed]


def list_settings(config: Config) -> list[Params]:
    """The parameters of every setting of a grid or random search, baselines first.

    grid: all combinations of the grids, `samples` times, each with its own draws of the random
    kinds. random: `samples` trials in which a grid is drawn from like a choice.
    """
    # Parameters, not TrialSpecs: a parsed configuration takes 10 to 20 kB, up to 2 GB for the
    # largest sweep. `check` parses each and drops it; a trial is parsed again when it is suggested
    # to Tune.
    space = parse_space(config.tune.space)
    if config.tune.search == "random":
        space = {
            key: Dimension("choice", d.values) if d.kind == "grid" else d
            for key, d in space.items()
        }
    generator = host_generator(config.seed, "search")
    grids = [[(key, v) for v in d.values] for key, d in space.items() if d.kind == "grid"]
    found: list[Params] = []
    for _ in range(config.tune.samples):
        for combination in itertools.product(*grids):
            fixed = dict(combination)
            found.append(
                {
                    key: fixed[key] if d.kind == "grid" else _draw(d, generator)
                    for key, d in space.items()
                }
            )
    return baselines(config.tune) + found


def baselines(tune: TuneConfig) -> list[Params]:
    """The parameters of the fixed settings; nested sections become dotted keys."""
    return [flatten_keys(baseline) for baseline in tune.baselines]


def swept_keys(tune: TuneConfig) -> list[str]:
    """The single keys that trials differ in, apart from the seed: of the space, then baselines."""
    names = [
        n for params in (parse_space(tune.space), *baselines(tune)) for n in split_keys(params)
    ]
    return [name for name in dict.fromkeys(names) if name != SEED]


def differing_keys(tune: TuneConfig) -> set[str]:
    """The single keys that trials may differ in, with the seed."""
    spaces = (parse_space(tune.space), *baselines(tune))
    has_seeds = tune.seeds != 1 or any(SEED in split_keys(params) for params in spaces)
    return {*swept_keys(tune), *([SEED] if has_seeds else [])}


def _corners(tune: TuneConfig) -> list[Params]:
    """Parameters that between them have every listed value, and both ends of every interval."""
    space = parse_space(tune.space)
    longest = max((len(d.values) for d in space.values()), default=0)
    return [
        {key: d.values[min(i, len(d.values) - 1)] for key, d in space.items()}
        for i in range(longest)
    ]


def _count(tune: TuneConfig) -> int:
    """How many trials `list_params` would list, without the baselines."""
    grids = [len(d.values) for d in parse_space(tune.space).values() if d.kind == "grid"]
    return seed_count(tune) * tune.samples * (math.prod(grids) if tune.search == "grid" else 1)


def _draw(dimension: Dimension, generator: np.random.Generator) -> Any:
    if dimension.kind == "choice":
        return dimension.values[int(generator.integers(len(dimension.values)))]
    low, high = dimension.values
    if dimension.kind == "uniform":
        return float(generator.uniform(low, high))
    return float(math.exp(generator.uniform(math.log(low), math.log(high))))


def parse_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """The dimensions of a search space by dotted key; nested sections become dotted keys.

    Raises ConfigError.
    """
    dimensions, problems = {}, []
    for key, spec in _dotted(space).items():
        if isinstance(spec, (list, tuple)):
            spec = {"grid": spec}
        if not isinstance(spec, Mapping):
            dimensions[key] = Dimension("grid", [spec])
            continue
        kind, values = next(iter(spec.items())) if len(spec) == 1 else (None, None)
        if kind not in KINDS:
            expected = ", ".join(["a list", *(f"{{{k}: [...]}}" for k in KINDS)])
            problems.append(f"tune.space.{key} = {spec!r}: expected one of {expected}")
        elif not isinstance(values, (list, tuple)) or not values:
            problems.append(f"tune.space.{key}: {kind} needs a list of values, not {values!r}")
        elif kind in INTERVALS and not _is_interval(values, positive=kind == "loguniform"):
            bound = "0 < low < high" if kind == "loguniform" else "low < high"
            problems.append(
                f"tune.space.{key} = {{{kind}: {list(values)}}}: expected [low, high] with {bound}"
            )
        else:
            dimensions[key] = Dimension(kind, list(values))
    if problems:
        raise ConfigError(problems)
    return dimensions


def _dotted(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, down to the {kind: ...} mappings."""
    out: dict[str, Any] = {}
    for key, spec in space.items():
        name = f"{prefix}{key}"
        inner = _dotted(spec, f"{name}.") if _is_section(name, spec) else {name: spec}
        if twice := [each for each in inner if each in out]:
            raise ConfigError(
                [f"tune.space.{each}: given twice, nested and dotted" for each in twice]
            )
        out.update(inner)
    return out


def _is_section(name: str, spec: object) -> bool:
    """Whether an entry of a space is a section with entries of its own."""
    if not isinstance(spec, Mapping) or not spec:
        return False
    if len(spec) == 1 and next(iter(spec)) in KINDS:
        return False
    sections = {key.rpartition(".")[0] for key in known_keys()}
    return name in sections or all(isinstance(value, Mapping) for value in spec.values())


def _is_interval(values: Sequence[Any], positive: bool) -> bool:
    if len(values) != 2 or not all(map(_is_finite, values)):
        return False
    low, high = values
    return bool(low < high and (low > 0 or not positive))


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)
