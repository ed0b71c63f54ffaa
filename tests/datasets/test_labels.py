"""Labels become classes 0..C-1, and a warning says so where they are not."""

import re

import numpy as np
import pytest

from fedsmu_ray.datasets.labels import classes_of, clients_of, vector
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, small_arrays


@pytest.mark.parametrize(
    "train, test, classes, mapped, count",
    [
        ([0, 1, 2, 1], [2, 0], None, [0, 1, 2, 1], 3),
        ([0, 1, 2, 1], [2, 0], 3, [0, 1, 2, 1], 3),
        ([0, 1, 9, 1], [2, 0], 10, [0, 1, 9, 1], 10),  # classes may lack samples
        ([False, True], [True], None, [0, 1], 2),
        ([0.0, 2.0, 1.0], [1.0], None, [0, 2, 1], 3),
        (np.float16([0, 2, 1]), [1.0], None, [0, 2, 1], 3),
        (np.array([0, 1], ">u2"), np.array([1], np.int8), None, [0, 1], 2),
    ],
)
def test_classes_that_are_numbered_stay_as_they_are(train, test, classes, mapped, count, caplog):
    train_y, test_y, found = classes_of(train, test, classes, "own")
    assert (train_y.tolist(), test_y.tolist(), found) == (mapped, [int(y) for y in test], count)
    assert train_y.dtype == test_y.dtype == np.int64 and not caplog.text


@pytest.mark.parametrize(
    "train, test, mapped, shown",
    [
        (
            [90210, 10001, 90210],
            [10001],
            [1, 0, 1],
            "2 labels 10001, 90210 .* with classes = 90211",
        ),
        ([0, 2**40], [0], [0, 1], "2 labels 0, 1099511627776 "),
        (np.uint64([2**63, 0]), np.uint64([0]), [1, 0], "2 labels 0, 9223372036854775808 "),
        ([1, 2, 3], [3, 1], [0, 1, 2], "3 labels 1, 2, 3 are used as classes 0..2, in this order"),
        ([1, -1], [-1], [1, 0], "2 labels -1, 1 are used as classes 0..1, in this order$"),
        (
            [0, 1, 3],
            [3],
            [0, 1, 2],
            "3 labels 0, 1, 3 .*; with classes = 4 they are used as they are",
        ),
        ([5.0, 7.0], [5.0], [0, 1], "2 labels 5, 7 "),
        (["dog", "cat", "dog"], ["cat"], [1, 0, 1], "2 labels cat, dog .*, in this order$"),
        ([b"dog", b"cat"], [b"cat"], [1, 0], "2 labels"),
        (list(range(10, 20)), [10], list(range(10)), "10 labels 10, 11, 12, ..., 19 "),
    ],
)
def test_other_labels_are_mapped_and_a_warning_says_so(train, test, mapped, shown, caplog):
    train_y, test_y, count = classes_of(train, test, None, "own")
    assert train_y.tolist() == mapped and count == len(set(mapped))
    assert test_y.tolist() == [mapped[list(train).index(y)] for y in test]
    (line,) = caplog.messages
    assert re.search(f"own: the {shown}", line)


def test_text_may_have_classes_without_samples():
    train_y, test_y, count = classes_of(["b", "d"], ["c"], 5, "own")
    assert (train_y.tolist(), test_y.tolist(), count) == ([0, 2], [1], 5)


@pytest.mark.parametrize(
    "train, test, classes, message",
    [
        ([0, 1], [2], None, r"test_y\[0\] = 2: no training sample has this label .they have 0, 1."),
        ([7, 9], [7, 8], None, r"test_y\[1\] = 8: no training sample has this label"),
        (["a", "b"], ["a", "b "], None, r"test_y\[1\] = b : no training sample has this label"),
        ([0, 10], [0], 10, r"train_y\[1\] = 10: labels must be in 0..9, since classes = 10"),
        ([0, 1], [-1], 10, r"test_y\[0\] = -1: labels must be in 0..9, since classes = 10"),
        (["a", "b"], ["c"], 2, "classes = 2, but there are 3 labels: a, b, c"),
        ([0.5, 1], [0], None, r"train_y\[0\] = 0.5: it must hold whole numbers"),
        ([0, float("nan")], [0], None, r"train_y\[1\] = nan: it must hold whole numbers"),
        ([0, 1e300], [0], None, r"train_y\[1\] = 1e\+300: it must hold whole numbers"),
        ([0, "a"], [0], None, "train_y is not an array: text and other values are mixed"),
        ([0, 1], ["a"], None, "train_y is int64 and test_y <U1; both must be alike"),
        ([0, None], [0], None, "train_y holds values of type NoneType"),
        ([], [0], None, "train_y is empty"),
        (3, [0], None, "train_y is of type int"),
    ],
)
def test_wrong_labels_are_named(train, test, classes, message):
    with pytest.raises(ConfigError, match=f"own: {message}"):
        classes_of(train, test, classes, "own")


def test_text_in_a_list_does_not_take_the_memory_of_its_longest_value(caplog):
    names = ["b", "a" * 100_000, "b"]
    assert vector(names, "y", "own").nbytes == 3 * 8
    assert classes_of(names, np.array(["b"]), None, "own")[0].tolist() == [1, 0, 1]
    assert classes_of(np.array(["b", "a"]), ["b"], None, "own")[1].tolist() == [1]
    assert clients_of(names, "own").tolist() == [1, 0, 1]


def test_clients_are_numbers_or_names():
    assert clients_of(["w2", "w1", "w2"], "own").tolist() == [1, 0, 1]
    assert clients_of(np.array([7.0, -1.0]), "own").tolist() == [7, -1]
    with pytest.raises(ConfigError, match="own: clients is .3, 2.; it must hold one value per"):
        clients_of(np.zeros((3, 2)), "own")


def test_a_file_with_sparse_labels_has_as_many_classes_as_labels(tmp_path, caplog):
    zip_codes = np.array([10001, 20500, 60601, 90210])
    y = {key: zip_codes[small_arrays()[key]] for key in ("train_y", "test_y")}
    np.savez(tmp_path / "own.npz", **small_arrays(**y))
    data = load("npz", tmp_path / "own.npz")
    assert data.classes == 4 and data.train_y.tolist() == small_arrays()["train_y"].tolist()
    assert (
        "own.npz: the 4 labels 10001, 20500, 60601, 90210 are used as classes 0..3" in caplog.text
    )
