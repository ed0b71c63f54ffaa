"""LEAF's JSON format (Caldas et al., 2018): users with their samples, in a train and a test folder.

    <root>/{train,test}/*.json:
        {"users": [...], "num_samples": [...], "user_data": {user: {"x": [...], "y": [...]}}}

x is a list of windows of characters (Shakespeare) or of lists of numbers (FEMNIST, synthetic); y is
a list of the next characters or of labels. File names of images (CelebA) are not read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsmu_ray.datasets.base import DatasetSource
from fedsmu_ray.datasets.conversion import as_array
from fedsmu_ray.datasets.dataset import Dataset, checked
from fedsmu_ray.datasets.folders import report_skipped, shortened, visible
from fedsmu_ray.datasets.json_stream import JsonStream
from fedsmu_ray.datasets.labels import TEXT, classes_of, vector
from fedsmu_ray.datasets.mapped import RowWriter, pages_released, space_needed
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

    predict: Annotated[
        Literal["last", "all"],
        Field(
            description="the character after each window (last), or after each of its positions "
            "(all), for task.loss=next_token"
        ),
    ] = "last"

    def load(self, name: str, root: Path, download: bool) -> Dataset:
        """Read <root>/<name> or <root>."""
        dataset = _load(name, root, ALPHABET, None)
        return _with_all_positions(dataset) if self.predict == "all" else dataset


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
    with pages_released(train.x, test.x):
        return checked(dataset, where)


def _with_all_positions(dataset: Dataset) -> Dataset:
    """The same text with the next character of every position as a target, int64 [N, T]."""
    train_y, test_y = (
        np.concatenate([x[:, 1:], y[:, None]], 1, dtype=np.int64, casting="unsafe")
        for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y))
    )
    return replace(dataset, train_y=train_y, test_y=test_y, targets="tokens")


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
    megabytes = sum(file.stat().st_size for file in files) >> 20
    with RowWriter() as samples:
        reader = _Reader(alphabet, samples)
        with progress(f"reading {folder} (MB)", megabytes, SILENT_MB) as advance:
            for file in files:
                reader.read(file, advance)
        labels = reader.labels
        if not labels:
            message = f"data.root: {folder}: no user has samples; fetch or generate it again"
            raise ConfigError([message])
        clients = np.repeat(np.arange(len(labels)), [len(y) for y in labels])
        return _Split(samples.array(), np.concatenate(labels), clients)


class _Reader:
    """Reads the files of a folder; of the samples in them, about a megabyte is held as lists."""

    def __init__(self, alphabet: str, samples: RowWriter) -> None:
        """alphabet: of text. samples: where all samples are written."""
        self.alphabet = alphabet
        self.codes = np.full(0x110000, -1, np.int64)  # token of every Unicode code point
        self.codes[[ord(c) for c in alphabet]] = np.arange(len(alphabet))
        self.samples = samples
        self.labels: list[NDArray[Any]] = []  # of each user with samples
        self.users: set[str] = set()
        self.forms: dict[str, str] = {}  # what all samples, and all labels, have in common

    def read(self, file: Path, advance: Callable[[int], None]) -> None:
        """Read the users of a file; advance: is told the megabytes that were read."""
        counts: dict[str, tuple[int, int]] = {}  # samples and labels of each user
        listed: dict[str, Any] = {}
        shown = 0
        with _named_errors(file), file.open("rb") as raw:
            stream = JsonStream(raw)
            for key in stream.members():
                if key != "user_data":
                    listed[key] = stream.value()
                    continue
                for user in stream.members():
                    counts[user] = self._read_user(stream, user, f"data.root: {file}, user {user}")
                    advance((raw.tell() >> 20) - shown)
                    shown = raw.tell() >> 20
            stream.end()
            numbers = _numbers_of_samples(listed, counts)
        for user, (x, y) in counts.items():
            if not numbers[user] == x == y:
                raise ConfigError(
                    [
                        f"data.root: {file}, user {user}: {x} samples and {y} labels, but "
                        f"num_samples says {numbers[user]}; fetch or generate the file again"
                    ]
                )
        empty = [user for user, (x, _) in counts.items() if not x]
        if empty:
            log.warning("%s: %d users have no samples: %s", file, len(empty), shortened(empty))

    def _read_user(self, stream: JsonStream, user: str, where: str) -> tuple[int, int]:
        """Read a user; returns how many samples and labels there are."""
        if user in self.users:
            raise ConfigError(
                [f"{where}: the user is in the folder twice; remove one of the files"]
            )
        self.users.add(user)
        count, last, y = 0, list[Any](), None
        for key in stream.members():
            if key in ("x", "y") and stream.peek() != b"[":
                raise TypeError(f"{key} of user {user} must be a list")
            if key == "x":
                for block in stream.blocks():
                    self._add_samples(last, count - len(last), where)
                    count, last = count + len(block), block
            elif key == "y":
                y = stream.value()
            else:
                stream.value()
        if y is None:
            raise TypeError(f"user {user} has no y")
        if count == len(y) and y:  # other counts are reported with what num_samples says
            self._add_labels(y, last[0], where)
            self._add_samples(last, count - len(last), where)
        return count, len(y)

    def _add_samples(self, samples: list[Any], first: int, where: str) -> None:
        """Write samples of a user, of which the first one is number `first`."""
        if not samples:
            return
        is_text = isinstance(samples[0], str)
        x: NDArray[Any] = (
            _tokens(samples, self.codes, self.alphabet, f"{where}, x", first)
            if is_text
            else _numbers(samples, f"{where}: x")
        )
        self._check_form("samples", f"{list(x.shape[1:])} ({x.dtype})", where)
        with space_needed():
            self.samples.append(x)

    def _add_labels(self, y: list[Any], sample: Any, where: str) -> None:
        """Keep the labels of a user; sample: one of the user's."""
        if not isinstance(sample, str):
            labels = vector(y, "y", where)
        elif not isinstance(y[0], str):
            raise ConfigError(
                [
                    f"{where}: a sample, {sample[:80]!r}, is text, and its label {y[0]!r} is not a "
                    "character: images by file name (CelebA) and labeled texts are not read; write "
                    "a function that returns arrays, with the users as `clients` "
                    "(data.dataset=import:)"
                ]
            )
        else:
            tokens = _tokens(y, self.codes, self.alphabet, f"{where}, y")
            if tokens.shape[1] != 1:
                raise ConfigError(
                    [f"{where}: y[0] = {y[0]!r}: expected one character, the next one"]
                )
            labels = tokens[:, 0].astype(np.int64)
        self._check_form("labels", "text" if labels.dtype.kind in TEXT else "numbers", where)
        self.labels.append(labels)

    def _check_form(self, what: str, form: str, where: str) -> None:
        before = self.forms.setdefault(what, form)
        if form != before:
            raise ConfigError(
                [
                    f"{where}: {what} are {form}, those before {before}; all {what} must have the "
                    "same shape and type"
                ]
            )


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Have what is raised for the contents of a file say which it is, and the cure."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"data.root: {file} is not a complete JSON file ({error}); fetch or generate it again"]
        ) from None
    except TypeError as error:
        raise ConfigError(
            [
                f"data.root: {file} is not in LEAF's format ({error}); it needs users, num_samples "
                "and user_data: {user: {x, y}}"
            ]
        ) from None


def _numbers_of_samples(listed: dict[str, Any], found: Collection[str]) -> dict[str, Any]:
    """What the lists of a file say of each user; found: the users in user_data.

    Raises TypeError if the lists are not about these users.
    """
    for key in ("users", "num_samples"):
        if not isinstance(listed.get(key), list):
            raise TypeError(f"no list {key}")
    users, numbers = listed["users"], listed["num_samples"]
    if len(numbers) != len(users):
        raise TypeError(f"num_samples has {len(numbers)} numbers for {len(users)} users")
    of_user = dict(zip(users, numbers))
    for user in of_user:
        if user not in found:
            raise TypeError(f"user {user} is in users, but not in user_data")
    for user in found:
        if user not in of_user:
            raise TypeError(f"user {user} is in user_data, but not in users")
    return of_user


def _tokens(
    texts: list[Any], codes: NDArray[np.int64], alphabet: str, where: str, first: int = 0
) -> NDArray[np.uint8 | np.int64]:
    """Texts of one length as tokens [N, length]; first: the number of the first one."""
    length = len(texts[0])
    for i, text in enumerate(texts):
        if not isinstance(text, str) or len(text) != length or not length:
            raise ConfigError(
                [f"{where}[{first + i}] = {text!r}: expected {length} characters as in the first"]
            )
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    tokens = codes[points]
    if (tokens < 0).any():
        at = int(np.flatnonzero(tokens < 0)[0])
        raise ConfigError(
            [
                f"{where}[{first + at // length}]: character {chr(points[at])!r} is not among the "
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
