"""LEAF's JSON format (Caldas et al., 2018): users with their samples, split into a train and a test folder.

    <root>/{train,test}/*.json: {"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}

x is a list of windows of characters (Shakespeare) or of lists of numbers (FEMNIST, synthetic); y the next characters
or whole numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedsmu_ray.datasets.dataset import Dataset, checked
from fedsmu_ray.errors import ConfigError

# LEAF's 80 symbols, in its order; a symbol's place is its token.
ALPHABET = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"


def load(name: str, root: Path, alphabet: str = ALPHABET) -> Dataset:
    """The data set under root; natural clients are the training users, the test set is everybody's, pooled.

    Text becomes uint8 (int64 beyond 256 symbols) tokens [N, length], numbers float32. Raises ConfigError naming file,
    user and what is wrong, in particular a character outside the alphabet.
    """
    places = [root / name, root]
    place = next((p for p in places if (p / "train").is_dir()), None)
    if place is None:
        raise ConfigError(
            [
                f"data.dataset = {name}: no folder train/ with LEAF's JSON files in "
                f"{' or '.join(map(str, places))}; set data.root (or $FEDSMU_DATA) to the folder that holds "
                "train/ and test/"
            ]
        )
    train = _split(place / "train", alphabet)
    test = _split(place / "test", alphabet)
    text = train[0].dtype != np.float32
    classes = len(alphabet) if text else 1 + int(train[1].max())
    return checked(
        Dataset(
            name,
            train[0],
            train[1],
            test[0],
            test[1],
            classes,
            clients=train[2],
            symbols=len(alphabet) if text else None,
        ),
        f"data.root: {place}",
    )


def _split(folder: Path, alphabet: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, labels and owners (numbers in the order of the users) of all files of a folder."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise ConfigError(
            [f"data.root: {folder} has no *.json files; a LEAF data set needs train/ and test/"]
        )
    codes = np.full(0x110000, -1, np.int64)
    codes[[ord(c) for c in alphabet]] = np.arange(len(alphabet))
    xs, ys, owners, users = [], [], [], set()
    for file in files:
        for user, samples in _users(file):
            where = f"data.root: {file}, user {user}"
            if user in users:
                raise ConfigError(
                    [f"{where}: the user is in the folder twice; remove one of the files"]
                )
            if isinstance(samples["x"][0], str):
                x, y = (
                    _tokens(samples[key], codes, alphabet, f"{where}, {key}") for key in ("x", "y")
                )
                if y.shape[1] != 1:
                    raise ConfigError(
                        [
                            f"{where}: y[0] = {samples['y'][0]!r}: expected one character, the next one"
                        ]
                    )
                y = y[:, 0].astype(np.int64)
            else:
                x, y = (
                    _numbers(samples["x"], np.float32, f"{where}, x"),
                    _numbers(samples["y"], np.int64, f"{where}, y"),
                )
            if xs and (x.shape[1:] != xs[0].shape[1:] or x.dtype != xs[0].dtype):
                raise ConfigError(
                    [
                        f"{where}: samples are {list(x.shape[1:])} ({x.dtype}), those before "
                        f"{list(xs[0].shape[1:])} ({xs[0].dtype}); all samples must be alike"
                    ]
                )
            owners.append(np.full(len(y), len(users)))
            users.add(user)
            xs.append(x)
            ys.append(y)
    return np.concatenate(xs), np.concatenate(ys), np.concatenate(owners)


def _users(file: Path) -> list[tuple[str, dict[str, list[Any]]]]:
    """The users of a file that have samples."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        users, numbers, data = plain["users"], plain["num_samples"], plain["user_data"]
        found = [(user, data[user]) for user in users]
        lengths = [(len(samples["x"]), len(samples["y"])) for _, samples in found]
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"data.root: {file} is not a whole JSON file ({error}); fetch or make it again"]
        ) from None
    except (KeyError, TypeError) as error:
        raise ConfigError(
            [
                f"data.root: {file} is not in LEAF's format: {type(error).__name__} {error}; it needs users, "
                "num_samples and user_data: {user: {x, y}}"
            ]
        ) from None
    for user, number, (x, y) in zip(users, numbers, lengths):
        if not number == x == y:
            raise ConfigError(
                [
                    f"data.root: {file}, user {user}: {x} samples and {y} labels, but num_samples says {number}; "
                    "fetch or make the file again"
                ]
            )
    return [(user, samples) for user, samples in found if samples["x"]]


def _tokens(texts: list[str], codes: np.ndarray, alphabet: str, where: str) -> np.ndarray:
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
                f"{where}[{at // length}]: character {chr(points[at])!r} is not among the {len(alphabet)} symbols "
                "of the alphabet; clean the text, or give data.options.alphabet (data.dataset=leaf)"
            ]
        )
    return tokens.reshape(len(texts), length).astype(np.uint8 if len(alphabet) <= 256 else np.int64)


def _numbers(values: list[Any], dtype: type, where: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf" or (
            dtype is np.int64 and array.dtype.kind == "f" and (array % 1).any()
        ):
            raise ValueError(f"values like {values[0]!r}")
        return array.astype(dtype)
    except ValueError as error:
        wanted = "whole numbers" if dtype is np.int64 else "lists of numbers of one length, or text"
        raise ConfigError([f"{where}: expected {wanted}: {error}"]) from None
