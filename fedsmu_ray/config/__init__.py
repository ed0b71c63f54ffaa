"""Configurations: their keys, how they are read and checked, and reference tables of them."""

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse

__all__ = ["Config", "load_config", "parse"]
