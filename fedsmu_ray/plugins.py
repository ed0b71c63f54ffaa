"""The user's own code by name: `import:package.module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fedsmu_ray.errors import ConfigError


def load(key: str, name: str) -> Callable[..., Any]:
    """The function that `name` (import:package.module:function) points to; raises ConfigError naming `key`."""
    _, module, function = name.split(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ConfigError(
            [
                f"{key} = {name}: {module} cannot be imported ({error}); start the program in the folder that holds "
                "it with `python -m fedsmu_ray...`, or put that folder on PYTHONPATH"
            ]
        ) from error
    except Exception as error:
        raise ConfigError(
            [f"{key} = {name}: importing {module} raised {type(error).__name__}: {error}"]
        ) from error
    if not callable(found):
        raise ConfigError(
            [
                f"{key} = {name}: {module} ({importlib.import_module(module).__file__}) has no function {function}"
            ]
        )
    return found


def call(key: str, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call it; what it raises becomes a ConfigError that says whose error it was."""
    try:
        return function(*arguments, **options)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError([f"{key} = {name}: it raised {type(error).__name__}: {error}"]) from error
