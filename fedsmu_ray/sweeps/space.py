"""Search spaces: what a sweep tries. Plain Python; a trial is a mapping of dotted keys to values.

A space maps dotted keys to one of
    {grid: [a, b]}               every value, in combination with all other grids
    {choice: [a, b]}             one of them, at random
    {uniform: [low, high]}       a random float
    {loguniform: [low, high]}    likewise, uniform in its logarithm
    a plain value                fixed for the sweep
Several keys that share one value are written together: "algorithm.beta1, algorithm.beta2".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from fedsmu_ray.config.loading import apply, flatten
from fedsmu_ray.config.validation import Config, parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.streams import host_generator

MOST_TRIALS = 100_000
KINDS = ("grid", "choice", "uniform", "loguniform")


def spread(params: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of single keys from parameters whose keys may be several, comma-separated."""
    return {key.strip(): value for keys, value in params.items() for key in keys.split(",")}


def normal(space: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    """key -> (kind, arguments), checked; nested sections are read as dotted keys. Raises ConfigError."""
    out, problems = {}, []
    for key, spec in _dotted(space).items():
        kind, arguments = (
            next(iter(spec.items()))
            if isinstance(spec, Mapping) and len(spec) == 1
            else (None, None)
        )
        if not isinstance(spec, Mapping):
            out[key] = ("grid", [spec])
        elif kind not in KINDS:
            problems.append(
                f"tune.space.{key} = {spec!r}: expected one of {', '.join(f'{{{k}: [...]}}' for k in KINDS)}"
            )
        elif not isinstance(arguments, (list, tuple)) or not arguments:
            problems.append(f"tune.space.{key}: {kind} needs a list of values, not {arguments!r}")
        elif kind in ("uniform", "loguniform") and not _interval(arguments, kind):
            problems.append(
                f"tune.space.{key} = {{{kind}: {list(arguments)}}}: expected [low, high] with "
                f"{'0 < ' if kind == 'loguniform' else ''}low < high"
            )
        else:
            out[key] = (kind, list(arguments))
    if problems:
        raise ConfigError(problems)
    return out


def _dotted(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, down to the {kind: ...} mappings."""
    out: dict[str, Any] = {}
    for key, spec in space.items():
        if (
            isinstance(spec, Mapping)
            and spec
            and not (len(spec) == 1 and next(iter(spec)) in KINDS)
            and (all(isinstance(v, Mapping) for v in spec.values()))
        ):
            out.update(_dotted(spec, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = spec
    return out


def _interval(arguments: list[Any], kind: str) -> bool:
    numbers = [
        a
        for a in arguments
        if isinstance(a, (int, float)) and not isinstance(a, bool) and math.isfinite(a)
    ]
    if len(arguments) != 2 or len(numbers) != 2:
        return False
    low, high = arguments
    return low < high and (kind == "uniform" or low > 0)


def trials(config: Config) -> list[dict[str, Any]]:
    """The parameters of every trial of a grid or random search, baselines first. A function of the configuration.

    grid: all combinations of the grids, `samples` times, each with its own draws of the random kinds.
    random: `samples` trials in which grids are drawn from like choices.
    """
    space = normal(config.tune.space)
    generator = host_generator(config.seed, "search")
    if config.tune.search == "random":
        space = {
            key: ("choice" if kind == "grid" else kind, values)
            for key, (kind, values) in space.items()
        }
    grids = [
        [(key, value) for value in values]
        for key, (kind, values) in space.items()
        if kind == "grid"
    ]
    found = []
    for _ in range(config.tune.samples):
        for combination in itertools.product(*grids):
            fixed = dict(combination)
            found.append(
                {
                    key: fixed[key] if kind == "grid" else _draw(kind, values, generator)
                    for key, (kind, values) in space.items()
                }
            )
    return baselines(config) + found


def _count(config: Config) -> int:
    grids = [len(values) for kind, values in normal(config.tune.space).values() if kind == "grid"]
    return config.tune.samples * (math.prod(grids) if config.tune.search == "grid" else 1)


def baselines(config: Config) -> list[dict[str, Any]]:
    """Fixed trials beside the search; nested sections are read as dotted keys."""
    return [flatten(dict(b)) for b in config.tune.baselines]


def _draw(kind: str, values: list[Any], generator) -> Any:
    if kind == "choice":
        return values[int(generator.integers(len(values)))]
    low, high = values
    if kind == "uniform":
        return float(generator.uniform(low, high))
    return float(math.exp(generator.uniform(math.log(low), math.log(high))))


def check(config: Config) -> None:
    """Check every trial (for optuna: the ends of every range) as a configuration; raises ConfigError for the lot."""
    if config.tune.search == "optuna":
        if find_spec("optuna") is None:
            raise ConfigError(
                [
                    "tune.search = 'optuna': the package is not installed; pip install 'fedsmu-ray[optuna]'"
                ]
            )
        corners = [
            {
                key: values[min(i, len(values) - 1)]
                for key, (_, values) in normal(config.tune.space).items()
            }
            for i in range(max([len(v) for _, v in normal(config.tune.space).values()], default=0))
        ]
        candidates = baselines(config) + corners
    elif (count := _count(config)) > MOST_TRIALS:
        raise ConfigError(
            [
                f"tune.space: {count:,} trials, more than the {MOST_TRIALS:,} that a sweep may have; shorten its "
                "grids, lower tune.samples, or draw from the grids with tune.search=random"
            ]
        )
    else:
        candidates = trials(config)
    problems: dict[str, None] = {}
    for params in candidates:
        try:
            configure(config, params)
        except ConfigError as error:
            problems.update(dict.fromkeys(f"trial {params}: {p}" for p in error.problems))
    if not candidates:
        problems[
            "tune.space: empty, so there is nothing to sweep; add keys, as in "
            "tune.space.local.lr={grid: [0.05, 0.1]}"
        ] = None
    if problems:
        raise ConfigError(list(problems)[:20])


def configure(config: Config, params: Mapping[str, Any]) -> Config:
    """The configuration of one trial; raises ConfigError."""
    overrides = spread(params)
    outside = [k for k in overrides if k.split(".")[0] in ("tune", "tracking", "name")]
    if outside:
        raise ConfigError(
            [f"{k}: belongs to the sweep as a whole and cannot be swept" for k in outside]
        )
    return parse(apply(config.source, overrides))
