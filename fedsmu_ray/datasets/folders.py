"""What of a folder is read, and what is skipped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

# What operating systems and network drives leave behind, besides names that begin with a dot.
SYSTEM_FILES = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
NAMED = 5  # names in a message about many


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without hidden ones and SYSTEM_FILES.

    A missing folder has none. Raises ConfigError for a folder that cannot be read.
    """
    if not folder.is_dir():
        return []
    with named_errors():
        found = list(os.scandir(folder))
    found = [e for e in found if not (e.name.startswith(".") or e.name.lower() in SYSTEM_FILES)]
    return sorted(found, key=lambda entry: entry.name)


def report_skipped(folder: Path, paths: Sequence[str], why: str) -> None:
    """Log one warning that counts and names the paths in `folder` that are not read, if any."""
    if paths:
        names = shortened([os.path.relpath(path, folder) for path in paths])
        log.warning("%s: skipped %d files or folders, %s: %s", folder, len(paths), why, names)


def shortened(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn errors of the operating system into ConfigErrors that name the file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            [f"data.root: {error.filename} cannot be read ({error.strerror}); repair or remove it"]
        ) from error
