"""Paths in a configuration: expanded once, where it is read, see `environment.expand_path`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator

from fedsmu_ray.environment import expand_path
from fedsmu_ray.files.remote import is_uri
from fedsmu_ray.files.secrets import cut

_LOCAL_STORES = ("sqlite:///", "file://", "file:")  # what follows is a path


def _expand_folder(text: str) -> str:
    """A path, or the URI of a folder on an object store."""
    if is_uri(text):
        return _checked_uri(text)
    _check_folder(text)
    path = expand_path(text)
    if os.path.isfile(path):
        raise ValueError("is a file; must be a folder")
    return path


def _expand_local(text: str) -> str:
    """The path of a folder of this host or of a mounted file system."""
    _check_folder(text)
    return _expand_folder(text)


def _expand_data(text: str) -> str:
    """An absolute path, so that the configuration kept with a run holds in any working folder."""
    _check_folder(text)
    return str(Path(expand_path(text)).absolute())


def _checked_uri(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme == "file":
        if parts.netloc:
            raise ValueError("must be file:///PATH, a path on this host")
        return unquote(parts.path)
    if parts.password or cut(text) != text:
        raise ValueError(
            "must not hold a password; give it to every node by its environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by its role"
        )
    return text


def _check_folder(text: str) -> None:
    if not text.strip():
        raise ValueError("must be a folder")
    if is_uri(text):
        raise ValueError("must be a folder of a mounted file system, not a URL")


def _expand_uri(text: str) -> str:
    """The tracking URI with its path expanded, if it has one."""
    store = next((prefix for prefix in _LOCAL_STORES if text.startswith(prefix)), "")
    return text if is_uri(text) and not store else store + expand_path(text.removeprefix(store))


def _expand_dataset(text: str) -> str:
    """The name of a data set, with the path of `hf:<path>` expanded."""
    return "hf:" + expand_path(text.removeprefix("hf:")) if text.startswith("hf:") else text


DataPath = Annotated[str, AfterValidator(_expand_data)]
FolderPath = Annotated[str, AfterValidator(_expand_folder)]
LocalFolder = Annotated[str, AfterValidator(_expand_local)]
StoreURI = Annotated[str, AfterValidator(_expand_uri)]
DatasetName = Annotated[str, AfterValidator(_expand_dataset)]
