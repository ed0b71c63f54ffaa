"""Configurations from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsmu_ray import plugins
from fedsmu_ray.config.objects import named
from fedsmu_ray.config.plain_data import apply_overrides
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import parse_overrides, read_yaml
from fedsmu_ray.environment import expand_path
from fedsmu_ray.files import recipes
from fedsmu_ray.files.remote import Place, RemotePath
from fedsmu_ray.files.run_folders import code_folders


def load_config(
    source: str | Place | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Config:
    """Read a configuration, apply overrides, and check the result.

    source: a YAML file, the name of a recipe of this package, or a nested mapping; None is the
    quickstart. overrides: dotted keys, as a mapping or as 'key=value' strings. In mappings,
    functions, classes, modules and data may stand in place of names (see `named`). Modules of
    `import:` are looked for first in the folder of the file, or in those of the run or sweep that
    it belongs to. Raises ConfigError that lists all problems.
    """
    overrides = named(overrides) if isinstance(overrides, Mapping) else parse_overrides(overrides)
    if isinstance(source, Mapping):
        plugins.search_in(())
        return parse(apply_overrides(named(source), overrides))
    file = recipes.find(source)
    plain = read_yaml(file)
    plugins.search_in(_code_folders(file))
    return parse(apply_overrides(plain, overrides))


def _code_folders(file: str | Place) -> list[str]:
    """Where modules of `import:` are: those of its run or sweep, or the folder of the file."""
    if isinstance(file, RemotePath):
        return code_folders(file)
    path = Path(expand_path(str(file)))
    return [*code_folders(path), str(path.parent.resolve())]
