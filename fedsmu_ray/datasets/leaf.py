"""LEAF's JSON format (Caldas et al., 2018): users with their samples, in a train and a test folder.

    <root>/{train,test}/*.json:
        {"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}

x is a list of windows of characters (Shakespeare) or of lists of numbers (FEMNIST, synthetic); y is
a list of the next characters or of whole numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.dataset import Dataset, checked
from fedsmu_ray.errors import ConfigError

# LEAF's 80 symbols, in its order; the index of a symbol is its token.
ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"


@dataclass(frozen=True)
class Leaf(DatasetSource):
    """A data set in LEAF's format.

    The natural clients are the users of the training set; the test set pools the samples of all
    users. Text becomes tokens uint8 (int64 if there are more than 256 symbols) [N, length], numbers
    float32.
    """

    alphabet: Annotated[
        str, Field(description="symbols of the text, in the order of their tokens")
    ] = ALPHABET

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read <root>/<name> or <root>."""
        return _load(name, root, self.alphabet)


@dataclass(frozen=True)
class Shakespeare(DatasetSource):
    """LEAF's Shakespeare, with LEAF's alphabet; natural clients are the speaking roles."""

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read <root>/<name> or <root>."""
        return _load(name, root, ALPHABET)


@dataclass(frozen=True)
class _Split:
    """Samples [N, ...], labels and natural clients int64 [N].

    Clients are numbered in the order of the users.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    clients: NDArray[np.int64]


def _load(name: str, root: Path, alphabet: str) -> Dataset:
    """Read the data set in <root>/<name> or <root>.

    Raises ConfigError that names the file, the user and the problem.
    """
    places = [root / name, root]
    place = next((p for p in places if (p / "train").is_dir()), None)
    if place is None:
        raise ConfigError(
            [
                f"data.dataset = {name}: no folder train/ with LEAF's JSON files in "
                f"{' or '.join(map(str, places))}; set data.root (or $FEDSMU_DATA) to the folder "
                "that holds train/ and test/"
            ]
        )
    train, test = (_read_split(place / split, alphabet) for split in ("train", "test"))
    symbols = None if train.x.dtype == np.float32 else len(alphabet)
    classes = 1 + int(train.y.max()) if symbols is None else symbols
    arrays = (train.x, train.y, test.x, test.y)
    dataset = Dataset(name, *arrays, classes, clients=train.clients, symbols=symbols)
    return checked(dataset, f"data.root: {place}")


def _read_split(folder: Path, alphabet: str) -> _Split:
    """All files of a folder."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise ConfigError(
            [f"data.root: {folder} has no *.json files; a LEAF data set needs train/ and test/"]
        )
    codes = np.full(0x110000, -1, np.int64)  # token of every Unicode code point
    codes[[ord(c) for c in alphabet]] = np.arange(len(alphabet))
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[np.int64]] = []
    users: set[str] = set()
    for file in files:
        for user, samples in _users(file):
            where = f"data.root: {file}, user {user}"
            if user in users:
                raise ConfigError(
                    [f"{where}: the user is in the folder twice; remove one of the files"]
                )
            x, y = _user_arrays(samples, codes, alphabet, where)
            if xs and (x.shape[1:] != xs[0].shape[1:] or x.dtype != xs[0].dtype):
                raise ConfigError(
                    [
                        f"{where}: samples are {list(x.shape[1:])} ({x.dtype}), those before "
                        f"{list(xs[0].shape[1:])} ({xs[0].dtype}); all samples must have the same "
                        "shape and type"
                    ]
                )
            users.add(user)
            xs.append(x)
            ys.append(y)
    if not xs:
        raise ConfigError([f"data.root: {folder}: no user has samples; fetch or generate it again"])
    clients = np.repeat(np.arange(len(ys)), [len(y) for y in ys])
    return _Split(np.concatenate(xs), np.concatenate(ys), clients)


def _user_arrays(
    samples: dict[str, list[Any]], codes: NDArray[np.int64], alphabet: str, where: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Samples and labels of one user: tokens of text, or numbers."""
    if not isinstance(samples["x"][0], str):
        x = _numbers(samples["x"], np.float32, f"{where}, x")
        return x, _numbers(samples["y"], np.int64, f"{where}, y")
    x, y = (_tokens(samples[key], codes, alphabet, f"{where}, {key}") for key in ("x", "y"))
    if y.shape[1] != 1:
        raise ConfigError(
            [f"{where}: y[0] = {samples['y'][0]!r}: expected one character, the next one"]
        )
    return x, y[:, 0].astype(np.int64)


def _users(file: Path) -> list[tuple[str, dict[str, list[Any]]]]:
    """The users of a file that have samples."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        users, numbers, data = plain["users"], plain["num_samples"], plain["user_data"]
        found = [(user, data[user]) for user in users]
        lengths = [(len(samples["x"]), len(samples["y"])) for _, samples in found]
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"data.root: {file} is not a complete JSON file ({error}); fetch or generate it again"]
        ) from None
    except (KeyError, TypeError) as error:
        raise ConfigError(
            [
                f"data.root: {file} is not in LEAF's format: {type(error).__name__} {error}; it "
                "needs users, "
                "num_samples and user_data: {user: {x, y}}"
            ]
        ) from None
    for user, number, (x, y) in zip(users, numbers, lengths):
        if not number == x == y:
            raise ConfigError(
                [
                    f"data.root: {file}, user {user}: {x} samples and {y} labels, but num_samples "
                    f"says {number}; fetch or generate the file again"
                ]
            )
    return [(user, samples) for user, samples in found if samples["x"]]


def _tokens(
    texts: list[Any], codes: NDArray[np.int64], alphabet: str, where: str
) -> NDArray[np.uint8 | np.int64]:
    """Texts of one length as tokens [N, length]."""
    length = len(texts[0])
    for i, text in enumerate(texts):
        if not isinstance(text, str) or len(text) != length or not length:
            raise ConfigError(
                [f"{where}[{i}] = {text!r}: expected {length} characters as in the first"]
            )
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    tokens = codes[points]
    if (tokens < 0).any():
        at = int(np.flatnonzero(tokens < 0)[0])
        raise ConfigError(
            [
                f"{where}[{at // length}]: character {chr(points[at])!r} is not among the "
                f"{len(alphabet)} symbols "
                "of the alphabet; clean the text, or give data.options.alphabet (data.dataset=leaf)"
            ]
        )
    return tokens.reshape(len(texts), length).astype(np.uint8 if len(alphabet) <= 256 else np.int64)


def _numbers(values: list[Any], dtype: DTypeLike, where: str) -> NDArray[Any]:
    """Numbers as an array of float32, or of int64 if all of them are whole."""
    try:
        array = np.asarray(values)
        is_fractional = dtype is np.int64 and array.dtype.kind == "f" and (array % 1).any()
        if array.dtype.kind not in "iuf" or is_fractional:
            raise ValueError(f"values like {values[0]!r}")
        return array.astype(dtype)
    except ValueError as error:
        wanted = "whole numbers" if dtype is np.int64 else "lists of numbers of one length, or text"
        raise ConfigError([f"{where}: expected {wanted}: {error}"]) from None
