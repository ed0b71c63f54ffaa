"""Names in a configuration, and the user's own code that they may refer to.

A name is an entry of a registry, or has the form `import:package.module:function`.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fedsmu_ray.errors import ConfigError

T = TypeVar("T")

MAX_NAME_LENGTH = 120  # characters of a name in a message
# Patterns of the placeholders in forms of names; any other placeholder is one word.
_PLACEHOLDERS = {"<package.module>": r"\w+(\.\w+)*", "<name or path>": ".+"}
_loaded: dict[str, ModuleType] = {}  # modules that `load` has imported, by name


def lookup(key: str, name: object, registry: Mapping[str, T]) -> T:
    """The entry of a registry that a configured name stands for.

    Besides names, a registry may hold forms such as `import:<package.module>:<function>`, which
    stand for every name of that form. Raises ConfigError, which names the configuration key `key`
    and the nearest valid name.
    """
    if isinstance(name, str):
        for form, entry in registry.items():
            if _fits(form, name):
                return entry
    shown = repr(name[:MAX_NAME_LENGTH] if isinstance(name, str) else name)
    shown = shown if len(shown) <= MAX_NAME_LENGTH + 2 else f"{shown[:MAX_NAME_LENGTH]}..."
    close = difflib.get_close_matches(shown, registry, n=1, cutoff=0.4)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError([f"{key} = {shown}: must be one of {', '.join(registry)}{meant}"])


def load(key: str, name: str) -> Callable[..., Any]:
    """The function or class that `name` (import:package.module:function) points to.

    Raises ConfigError, which names the configuration key `key`.
    """
    _, module_name, attribute = name.split(":")
    module = _import(f"{key} = {name}", module_name)
    _loaded[module_name] = module
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        raise ConfigError(
            [
                f"{key} = {name}: {module_name} ({_place(module)}) has no function or class "
                f"{attribute}"
            ]
        )
    return found


def call(key: str, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the user's function and return its result.

    An exception that it raises becomes a ConfigError that names the key and the function.
    """
    try:
        return function(*arguments, **options)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError([f"{key} = {name}: it raised {type(error).__name__}: {error}"]) from error


def user_modules() -> list[ModuleType]:
    """The modules in this process that are the user's own.

    They are those that `load` has imported, and all others imported from the same folders.

    A folder is the one on the module search path that holds a loaded module (for `package.module`,
    the folder of `package`). Installed packages, the standard library and this package are left
    out: they are the same on every node, whereas the user's modules may exist on one machine only.
    """
    loaded = [m for m in _loaded.values() if sys.modules.get(m.__name__) is m]
    own = [module for module in loaded if _is_users(module)]
    folders = {_search_folder(module) for module in own}
    others = [
        module
        for module in list(sys.modules.values())
        if module not in own
        and _is_users(module)
        and any(Path(_place(module)).is_relative_to(folder) for folder in folders)
    ]
    return own + others


def _fits(form: str, name: str) -> bool:
    if "<" not in form:
        return name == form
    pattern = re.sub(r"<[^>]+>", lambda found: _PLACEHOLDERS.get(found[0], r"\w+"), form)
    return re.fullmatch(pattern, name) is not None


def _import(where: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                [f"{where}: {module_name} imports a module that is not installed: {error.name}"]
            ) from error
        raise ConfigError(
            [
                f"{where}: {module_name} cannot be imported ({error}); start the program in the "
                "folder that holds it "
                "with `python -m fedsmu_ray...`, or put that folder on PYTHONPATH"
            ]
        ) from error
    except Exception as error:
        raise ConfigError(
            [f"{where}: importing {module_name} raised {type(error).__name__}: {error}"]
        ) from error


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"


def _search_folder(module: ModuleType) -> Path:
    """The folder of the module search path that holds the module's top-level package."""
    place = Path(_place(module))
    levels = module.__name__.count(".") + (place.name == "__init__.py")
    return place.parents[levels]


def _is_users(module: ModuleType) -> bool:
    """Whether a module's file is neither installed nor part of Python or this package."""
    name, place = getattr(module, "__name__", ""), Path(_place(module))
    if not place.is_absolute() or name == "__main__" or name.split(".")[0] == "fedsmu_ray":
        return False
    if {"site-packages", "dist-packages"} & set(place.parts):
        return False
    library = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return not any(place.is_relative_to(folder) for folder in library)
