"""Configurations from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsmu_ray import plugins
from fedsmu_ray.config.plain_data import apply_overrides
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import parse_overrides, read_yaml
from fedsmu_ray.environment import expand_path
from fedsmu_ray.files import recipes
from fedsmu_ray.files.remote import Place, RemotePath
from fedsmu_ray.files.run_folders import code_folders


def load_config(
    path: str | Place | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Config:
    """Read a configuration file, apply overrides, and check the result.

    path: a YAML file, or the name of a recipe of this package; None is the quickstart. overrides:
    dotted keys, as a mapping or as 'key=value' strings. Modules of `import:` are looked for first
    in the folder of the file, or in those of the run or sweep that it belongs to. Raises
    ConfigError that lists all problems.
    """
    if not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides)
    file = recipes.find(path)
    plain = read_yaml(file)
    plugins.search_in(_code_folders(file))
    return parse(apply_overrides(plain, overrides))


def _code_folders(file: str | Place) -> list[str]:
    """Where modules of `import:` are: those of its run or sweep, or the folder of the file."""
    if isinstance(file, RemotePath):
        return code_folders(file)
    path = Path(expand_path(str(file)))
    return [*code_folders(path), str(path.parent.resolve())]
