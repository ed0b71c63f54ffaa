"""Paths in a configuration: expanded once, where it is read, see `environment.expand_path`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from fedsmu_ray.environment import expand_path

_URL = re.compile(r"[a-zA-Z][\w+.-]*://")
_LOCAL_STORES = ("sqlite:///", "file://", "file:")  # what follows is a path


def _expand_folder(text: str) -> str:
    _check_folder(text)
    path = expand_path(text)
    if os.path.isfile(path):
        raise ValueError("is a file; must be a folder")
    return path


def _expand_data(text: str) -> str:
    """An absolute path, so that the configuration kept with a run holds in any working folder."""
    _check_folder(text)
    return str(Path(expand_path(text)).absolute())


def _check_folder(text: str) -> None:
    if not text.strip():
        raise ValueError("must be a folder")
    if _URL.match(text):
        raise ValueError("must be a folder of a mounted file system, not a URL")


def _expand_uri(text: str) -> str:
    """The tracking URI with its path expanded, if it has one."""
    store = next((prefix for prefix in _LOCAL_STORES if text.startswith(prefix)), "")
    return text if _URL.match(text) and not store else store + expand_path(text.removeprefix(store))


def _expand_dataset(text: str) -> str:
    """The name of a data set, with the path of `hf:<path>` expanded."""
    return "hf:" + expand_path(text.removeprefix("hf:")) if text.startswith("hf:") else text


DataPath = Annotated[str, AfterValidator(_expand_data)]
FolderPath = Annotated[str, AfterValidator(_expand_folder)]
StoreURI = Annotated[str, AfterValidator(_expand_uri)]
DatasetName = Annotated[str, AfterValidator(_expand_dataset)]
