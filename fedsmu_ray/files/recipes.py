"""The recipes that come with the package, by name: the files of tune_configs/."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from pathlib import Path

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.remote import Place, RemotePath, is_uri

QUICKSTART = "quickstart"
_PACKAGE = Path(__file__).resolve().parent.parent


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a recipe; raises ConfigError for an unknown name, with the nearest one."""
    if name in names():
        return _folder() / f"{name}.yaml"
    raise ConfigError([f"{name}: no recipe has this name{_known(name)}"])


def find(given: str | Place | None) -> str | Place:
    """The file that is meant: `given` if it is one, else the recipe of that name.

    None is the quickstart. Raises ConfigError for a name that is neither; other files that do not
    exist are left to whoever reads them.
    """
    if given is None:
        return path(QUICKSTART)
    name = str(given)
    if isinstance(given, RemotePath) or is_uri(name) or os.path.isfile(name):
        return given
    if name in names():
        return path(name)
    if re.fullmatch(r"[\w-]{1,40}", name) and not os.path.exists(name):
        raise ConfigError([f"{name}: neither a file nor a recipe{_known(name)}"])
    if os.path.basename(name).endswith(".yaml") and Path(name).stem in names():
        recipe = Path(name).stem
        raise ConfigError([f"{name}: no such file; the recipe of this package is named {recipe}"])
    return given


def _known(name: str) -> str:
    known = names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"; recipes are {', '.join(known)}{meant}"


def first_sentence(file: Path) -> str:
    """The first sentence of the comment at the head of a recipe."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.lstrip("# ") for line in head)
    return re.split(r"\.\s", text, maxsplit=1)[0].rstrip(".: ")


def _folder() -> Path:
    """tune_configs/, inside of the package if it is installed, beside it in the repository."""
    installed = _PACKAGE / "tune_configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "tune_configs"
