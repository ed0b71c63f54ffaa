"""Names in a configuration, and the user's own code that they may refer to.

A name is an entry of a registry, or has the form `import:package.module:function`. An object that
is passed as it is gets such a name (`name_of`).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

from fedsmu_ray.errors import ConfigError, ExperimentError
from fedsmu_ray.numerics.isolation import isolated

T = TypeVar("T")

MAX_NAME_LENGTH = 120  # characters of a name in a message
MAX_ERROR_LENGTH = 400  # characters of an exception of the user's code in a message
SHOWN_FOLDERS = 5  # of those searched for a module, in a message
# Patterns of the placeholders in forms of names; any other placeholder is one word.
_PLACEHOLDERS = {"<package.module>": r"\w+(\.\w+)*", "<name or path>": ".+"}
_PACKAGE = Path(__file__).parent
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_loaded: dict[str, ModuleType] = {}  # modules that `load` has imported, by name
IN_MEMORY = "in_memory"  # in place of a module: the object was passed as it is
_in_memory: dict[str, Callable[..., Any]] = {}  # such objects, by what follows in their names
_folders: list[str] = []  # of the recipe that was read last: searched for modules before all others
_importing = threading.RLock()  # held while sys.argv is another
# What the user's code may change for the whole process, and what is put back after it.
_PROCESS_STATE: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (os.getcwd, os.chdir),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
)


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


def search_in(folders: Sequence[str]) -> None:
    """Look for the user's modules first in these folders, of the recipe that names them."""
    _folders[:] = folders


def name_of(given: Callable[..., Any]) -> str:
    """The name for `load` of a function, class or callable that is passed as it is.

    If it is one of a module it is found there by other processes, too; else only this process has
    it, and those to which what `load` returns is sent.
    """
    name = re.sub(r"\W", "", getattr(given, "__name__", type(given).__name__)) or "function"
    module = sys.modules.get(given.__module__)
    if module and vars(module).get(name) is given:
        return f"import:{given.__module__}:{name}"
    if module:
        _loaded[given.__module__] = module  # sent along by value
    kept = next((key for key, other in _in_memory.items() if other is given), None)
    kept = kept or f"{name}_{len(_in_memory)}"
    _in_memory[kept] = given
    return f"import:{IN_MEMORY}:{kept}"


def load(key: str, name: str) -> Callable[..., Any]:
    """The function or class that `name` (import:package.module:function) points to.

    Raises ConfigError, which names the configuration key `key`.
    """
    _, module_name, attribute = name.split(":")
    where = f"{key} = {name}"
    if module_name == IN_MEMORY:
        if attribute not in _in_memory:
            raise ConfigError(
                [f"{where}: an object of another process, which only that has; pass it again"]
            )
        return _in_memory[attribute]
    module = _import(where, module_name)
    _loaded[module_name] = module
    with reported(f"{where}: looking it up"):
        found: Callable[..., Any] | None = getattr(module, attribute, None)
    if callable(found):
        return found
    if module_name == "__main__":
        cure = "; in a notebook, run the cell that defines it first; in a file, import that file"
    else:
        cure = _nearest(attribute, [key for key, value in vars(module).items() if callable(value)])
    raise ConfigError(
        [f"{where}: {module_name} ({_place(module)}) has no function or class {attribute}{cure}"]
    )


def kept(owner: object, load: Callable[[], T]) -> T:
    """What `load` returns, called once and kept with a frozen dataclass.

    It is no field, because it is not an option, but part of the pickle.
    """
    if "_imported" not in vars(owner):
        object.__setattr__(owner, "_imported", load())
    found: T = vars(owner)["_imported"]
    return found


def call(
    key: str, name: str, function: Callable[..., Any], /, *arguments: Any, **options: Any
) -> Any:
    """Call the user's function and return its result; options may have any name.

    Whatever it raises becomes a ConfigError that names the key and the function; for an option
    that it does not take, also those that it takes.
    """
    with reported(f"{key} = {name}: it"), _process_state_kept():
        try:
            return function(*arguments, **options)
        except TypeError as error:
            problem = _call_problem(function, arguments, options)
            if problem is None:
                raise
            raise ConfigError([f"{key} = {name}: {problem}"]) from error


@contextmanager
def reported(what: str, cure: str = "correct the code there") -> Iterator[None]:
    """Raise a ConfigError for whatever the user's code raises in this block, with file and line.

    what: the subject of the message, as in `model.name = import:mine:model: it`. Errors of this
    package and KeyboardInterrupt pass.
    """
    try:
        yield
    except (ExperimentError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit, too
        raise ConfigError([f"{what} raised {_described(error)}; {cure}"]) from error


def user_modules() -> list[ModuleType]:
    """The modules in this process that are the user's own.

    They are those that `load` has imported, and all others imported from the same folders.

    A folder is the one on the module search path that holds a loaded module (for `package.module`,
    the folder of `package`). Installed packages, the standard library and this package are left
    out: they are the same on every node, whereas the user's modules may exist on one machine only.
    """
    own = _loaded_own()
    folders = {_search_folder(module) for module in own}
    others = [
        module
        for module in list(sys.modules.values())
        if module not in own
        and _is_users(module)
        and any(Path(_place(module)).is_relative_to(folder) for folder in folders)
    ]
    return own + others


def code_folders() -> list[str]:
    """The folders in which `load` has found the user's modules, for `search_in`."""
    return sorted({str(_search_folder(module)) for module in _loaded_own()})


def _loaded_own() -> list[ModuleType]:
    loaded = [m for m in _loaded.values() if sys.modules.get(m.__name__) is m]
    return [module for module in loaded if _is_users(module)]


def _fits(form: str, name: str) -> bool:
    if "<" not in form:
        return name == form
    pattern = re.sub(r"<[^>]+>", lambda found: _PLACEHOLDERS.get(found[0], r"\w+"), form)
    return re.fullmatch(pattern, name) is not None


def _import(where: str, module_name: str) -> ModuleType:
    sys.path[:] = dict.fromkeys([*_folders, *sys.path])
    if sys.modules.get(module_name):
        _check_origin(where, module_name)
        return importlib.import_module(module_name)
    try:
        with (
            reported(f"{where}: importing {module_name}"),
            isolated(0),  # what is drawn in an import is the same in every run
            _process_state_kept(),
            _arguments_hidden(module_name),
        ):
            return importlib.import_module(module_name)
    except ConfigError as raised:
        error = raised.__cause__
        if isinstance(error, ModuleNotFoundError):
            raise ConfigError([f"{where}: {_not_found(module_name, error)}"]) from error
        if isinstance(error, SystemExit):
            raise ConfigError(
                [
                    f"{where}: {module_name} ends the program when it is imported "
                    f"({_described(error)}); what it does as a script, such as reading arguments, "
                    'belongs below `if __name__ == "__main__":`'
                ]
            ) from error
        raise


def _not_found(module_name: str, error: ModuleNotFoundError) -> str:
    if not f"{module_name}.".startswith(f"{error.name}."):
        return f"{module_name} imports a module that is not installed: {error.name or error}"
    folders = [folder or os.getcwd() for folder in sys.path]
    searched = [f for f in dict.fromkeys(folders) if os.path.isdir(f) and not _is_installed(f)]
    more = len(searched) - SHOWN_FOLDERS
    shown = ", ".join([*searched[:SHOWN_FOLDERS], *([f"{more} more folders"] if more > 0 else [])])
    return (
        f"{module_name} cannot be imported ({error}); searched: {shown} and what is installed; put "
        "it beside the recipe, or its folder on PYTHONPATH"
    )


def _check_origin(where: str, module_name: str) -> None:
    """Raise ConfigError if a module of this name was imported before from another recipe's folder.

    Without that, the second recipe would silently get the code of the first.
    """
    top = module_name.split(".")[0]
    spec = PathFinder.find_spec(top, _folders)
    if module_name not in _loaded or top == "__main__" or not spec or not spec.has_location:
        return
    before, now = _place(sys.modules[top]), str(spec.origin)
    if os.path.realpath(before) != os.path.realpath(now):
        raise ConfigError(
            [
                f"{where}: {top} is {now}, but this process has imported {before} under that name; "
                "rename one of them, or start another process"
            ]
        )


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Put back the working directory and PyTorch's defaults: other processes would not see them."""
    before = [get() for get, _ in _PROCESS_STATE]
    try:
        yield
    finally:
        for (get, put), value in zip(_PROCESS_STATE, before):
            if get() != value:
                put(value)


@contextmanager
def _arguments_hidden(module_name: str) -> Iterator[None]:
    """Hide the command's arguments from a module that is imported, and keep its signal handlers."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    with _importing:
        arguments, handlers = sys.argv, [signal.getsignal(number) for number in numbers]
        sys.argv = [f"{module_name}.py"]
        try:
            yield
        finally:
            sys.argv = arguments
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(numbers, handlers):
                signal.signal(number, handler)


def _call_problem(
    function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]
) -> str | None:
    """What is wrong with a call by the function's signature; None if nothing is."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin
        return None
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        parameters = signature.parameters.values()
        fixed = [p for p in parameters if p.kind in _POSITIONAL][: len(arguments)]
        taken = [p.name for p in fixed if p.name in options and p.kind in _NAMED]
        takes = [p.name for p in parameters if p.kind in _NAMED and p not in fixed]
        unknown = [option for option in options if option not in takes]
        if taken:
            return f"its parameter {taken[0]} is not an option; remove it from the options"
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            has = f"only {', '.join(takes)}" if takes else "nor any other"
            return f"it takes no option {unknown[0]}, {has}{_nearest(unknown[0], takes)}"
        return (
            f"it cannot be called with {len(arguments)} arguments and {len(options)} options "
            f"({error}): it takes {signature}; set the options that it needs, or change the code"
        )
    return None


def _nearest(name: str, others: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else ""


def _described(error: BaseException) -> str:
    """An exception's type, its text on one line, and where in the user's code it was raised."""
    text = " ".join(str(error).split())
    text = text if len(text) <= MAX_ERROR_LENGTH else f"{text[:MAX_ERROR_LENGTH]}..."
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    line = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{line}"


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"


def _search_folder(module: ModuleType) -> Path:
    """The folder of the module search path that holds the module's top-level package."""
    place = Path(_place(module))
    levels = module.__name__.count(".") + (place.name == "__init__.py")
    return place.parents[levels]


def _is_users(module: ModuleType) -> bool:
    """Whether a module's file is neither installed nor part of Python or this package."""
    name, place = getattr(module, "__name__", ""), _place(module)
    return Path(place).is_absolute() and name != "__main__" and not _is_installed(place)


def _is_installed(file: str) -> bool:
    """Whether a file of code is installed, or part of Python or this package."""
    place = Path(file)
    if file.startswith("<frozen") or {"site-packages", "dist-packages"} & set(place.parts):
        return True
    folders = (_PACKAGE, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return any(place.is_relative_to(folder) for folder in folders)
