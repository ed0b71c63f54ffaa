"""Configurations from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsmu_ray.config.plain_data import apply_overrides
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.config.yaml_files import parse_overrides, read_yaml
from fedsmu_ray.files.remote import Place

PACKAGE = Path(__file__).resolve().parent.parent


def load_config(
    path: str | Place | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Config:
    """Read a configuration file, apply overrides, and check the result.

    path: a YAML file; None is the quickstart. overrides: dotted keys, as a mapping or as
    'key=value' strings. Raises ConfigError that lists all problems.
    """
    if not isinstance(overrides, Mapping):
        overrides = parse_overrides(overrides)
    return parse(apply_overrides(read_yaml(quickstart() if path is None else path), overrides))


def quickstart() -> Path:
    """The file tune_configs/quickstart.yaml.

    It is inside the package if that is installed, and beside it in the repository.
    """
    installed = PACKAGE / "tune_configs" / "quickstart.yaml"
    return installed if installed.exists() else PACKAGE.parent / "tune_configs" / "quickstart.yaml"
