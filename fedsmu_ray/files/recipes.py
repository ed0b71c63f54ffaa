"""The recipes that come with the package, by name: the files of tune_configs/."""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path

from fedsmu_ray.errors import ConfigError

QUICKSTART = "quickstart"
_PACKAGE = Path(__file__).resolve().parent.parent


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a recipe; raises ConfigError for an unknown name, with the nearest one."""
    known = names()
    if name in known:
        return _folder() / f"{name}.yaml"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError([f"{name}: no recipe has this name, only {', '.join(known)}{meant}"])


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
