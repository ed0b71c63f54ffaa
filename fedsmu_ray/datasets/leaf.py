"""LEAF's JSON format (Caldas et al., 2018): users with their samples, in a train and a test folder.

    <root>/{train,test}/*.json:
        {"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}

x is a list of windows of characters (Shakespeare) or of lists of numbers (FEMNIST, synthetic); y is
a list of the next characters or of labels. File names of images (CelebA) are not read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.conversion import as_array
from fedsmu_ray.datasets.dataset import Dataset, checked
from fedsmu_ray.datasets.folders import report_skipped, shortened, visible
from fedsmu_ray.datasets.labels import classes_of, vector
from fedsmu_ray.datasets.mapped import RowWriter, space_needed
from fedsmu_ray.datasets.progress import progress
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

SILENT_MB = 50  # no progress display for files of so many megabytes
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
        str, Field(min_length=2, description="symbols of the text, in the order of their tokens")
    ] = ALPHABET
    classes: Annotated[
        int | None,
        Field(ge=2, description="number of classes of numbers; default: the training labels"),
    ] = None

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read <root>/<name> or <root>."""
        return _load(name, root, self.alphabet, self.classes)


@dataclass(frozen=True)
class Shakespeare(DatasetSource):
    """LEAF's Shakespeare, with LEAF's alphabet; natural clients are the speaking roles."""

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read <root>/<name> or <root>."""
        return _load(name, root, ALPHABET, None)


@dataclass(frozen=True)
class _Split:
    """Samples [N, ...], labels (whole numbers or text) and natural clients (int64) [N].

    Clients are numbered in the order of the users.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    clients: NDArray[np.int64]


def _load(name: str, root: Path, alphabet: str, classes: int | None) -> Dataset:
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
    if len(set(alphabet)) < len(alphabet):
        raise ConfigError([f"data.options.alphabet = {alphabet!r}: a symbol is in it twice"])
    train, test = (_read_split(place / split, alphabet) for split in ("train", "test"))
    where = f"data.root: {place}"
    symbols = None if train.x.dtype == np.float32 else len(alphabet)
    if symbols is not None and classes is not None:
        raise ConfigError(
            [f"data.options.classes = {classes}: text has the classes of its alphabet; remove it"]
        )
    train_y, test_y, classes = classes_of(
        train.y, test.y, classes if symbols is None else symbols, where
    )
    arrays = (train.x, train_y, test.x, test_y)
    dataset = Dataset(name, *arrays, classes, clients=train.clients, symbols=symbols)
    return checked(dataset, where)


def _read_split(folder: Path, alphabet: str) -> _Split:
    """All files of a folder."""
    entries = [Path(entry.path) for entry in visible(folder)]
    files = [path for path in entries if path.suffix.lower() == ".json"]
    skipped = [str(path) for path in entries if path not in files]
    report_skipped(folder, skipped, "as they are not JSON files")
    if not files:
        raise ConfigError(
            [f"data.root: {folder} has no *.json files; a LEAF data set needs train/ and test/"]
        )
    ys: list[NDArray[Any]] = []
    with RowWriter() as xs:
        form = ""
        for where, x, y in _all_users(files, alphabet, f"reading {folder}"):
            form = form or _form(x, y)
            if _form(x, y) != form:
                raise ConfigError(
                    [
                        f"{where}: samples are {_form(x, y)}, those before {form}; all samples "
                        "must have the same shape and type"
                    ]
                )
            with space_needed():
                xs.append(x)
            ys.append(y)
        if not ys:
            message = f"data.root: {folder}: no user has samples; fetch or generate it again"
            raise ConfigError([message])
        clients = np.repeat(np.arange(len(ys)), [len(y) for y in ys])
        return _Split(xs.array(), np.concatenate(ys), clients)


def _all_users(
    files: list[Path], alphabet: str, what: str
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Every user with samples: where it is, its samples and its labels.

    what: the name of the progress display, in megabytes.
    """
    codes = np.full(0x110000, -1, np.int64)  # token of every Unicode code point
    codes[[ord(c) for c in alphabet]] = np.arange(len(alphabet))
    sizes = [file.stat().st_size >> 20 for file in files]
    users: set[str] = set()
    with progress(f"{what} (MB)", sum(sizes), SILENT_MB) as advance:
        for file, size in zip(files, sizes):
            for user, samples in _users(file):
                where = f"data.root: {file}, user {user}"
                if user in users:
                    raise ConfigError(
                        [f"{where}: the user is in the folder twice; remove one of the files"]
                    )
                users.add(user)
                yield where, *_user_arrays(samples, codes, alphabet, where)
            advance(size)


def _form(x: NDArray[Any], y: NDArray[Any]) -> str:
    """What the samples and labels of all users must have in common."""
    labels = "text" if y.dtype.kind == "U" else "numbers"
    return f"{list(x.shape[1:])} ({x.dtype}) with labels that are {labels}"


def _user_arrays(
    samples: dict[str, list[Any]], codes: NDArray[np.int64], alphabet: str, where: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples and labels of one user: tokens of text, or numbers."""
    x, y = samples["x"], samples["y"]
    if not isinstance(x[0], str):
        return _numbers(x, f"{where}: x"), vector(y, "y", where)
    if not isinstance(y[0], str):
        raise ConfigError(
            [
                f"{where}: x[0] = {x[0][:80]!r} is text, and its label {y[0]!r} is not a "
                "character: images by file name (CelebA) and labeled texts are not read; write a "
                "function that returns arrays, with the users as `clients` (data.dataset=import:)"
            ]
        )
    x_tokens, y_tokens = (
        _tokens(samples[key], codes, alphabet, f"{where}, {key}") for key in ("x", "y")
    )
    if y_tokens.shape[1] != 1:
        raise ConfigError([f"{where}: y[0] = {y[0]!r}: expected one character, the next one"])
    return x_tokens, y_tokens[:, 0].astype(np.int64)


def _users(file: Path) -> list[tuple[str, dict[str, list[Any]]]]:
    """The users of a file that have samples."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        users, numbers, data = plain["users"], plain["num_samples"], plain["user_data"]
        found = [(user, data[user]) for user in users]
        lengths = [(len(samples["x"]), len(samples["y"])) for _, samples in found]
        if not all(isinstance(samples[key], list) for _, samples in found for key in "xy"):
            raise TypeError("x and y of a user must be lists")
        if len(numbers) != len(users):
            raise TypeError(f"num_samples has {len(numbers)} numbers for {len(users)} users")
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
    empty = [str(user) for user, samples in found if not samples["x"]]
    if empty:
        log.warning("%s: %d users have no samples: %s", file, len(empty), shortened(empty))
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


def _numbers(values: list[Any], what: str) -> NDArray[np.float32]:
    """Lists of numbers of one length as float32 [N, ...]."""
    array = as_array(values, what)
    if array.dtype.kind not in "iuf":
        raise ConfigError([f"{what}: expected lists of numbers: values like {values[0]!r}"])
    with np.errstate(over="ignore"):  # infinite values are reported by `checked`
        return array.astype(np.float32)
