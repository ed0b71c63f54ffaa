import numpy as np
import pytest

from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.partition import PartitionConfig
from fedsmu_ray.datasets.split import split
from fedsmu_ray.datasets.targets import BINS, labels_to_split
from fedsmu_ray.errors import ConfigError

X = {"train_x": np.ones((20, 3), np.float32), "test_x": np.ones((4, 3), np.float32)}


def given(kind, train_y, test_y=None, **more):
    test_y = train_y[:4] if test_y is None else test_y
    return from_arrays(
        "mine", {**X, "train_y": train_y, "test_y": test_y, "targets": kind, **more}, "mine"
    )


def test_values_may_be_one_number_or_several():
    one = given("values", np.arange(20) / 7)
    assert one.train_y.shape == (20, 1) and one.train_y.dtype == np.float32
    assert (one.classes, one.output_shape, one.targets) == (1, (1,), "values")
    assert given("values", np.ones((20, 5))).output_shape == (5,)


def test_labels_are_zeros_and_ones():
    labels = np.arange(60).reshape(20, 3) % 2
    assert given("multi_hot", labels == 1).output_shape == (3,)
    assert given("multi_hot", labels.tolist()).train_y.dtype == np.float32


def test_tokens_have_an_output_for_each_position():
    tokens = np.arange(80).reshape(20, 4) % 6
    assert given("tokens", tokens).output_shape == (4, 6)
    tokens[3, 1] = -100  # does not count
    assert given("tokens", tokens, classes=9).output_shape == (4, 9)


@pytest.mark.parametrize(
    "kind, y, more, problem",
    [
        ("multi_hot", np.full((20, 3), 0.5), {}, r"train_y\[0, 0\] = 0.5: it must be 0 or 1"),
        ("values", np.full((20, 2), np.nan), {}, r"train_y\[0, 0\] = nan: .* finite"),
        ("values", ["a"] * 20, {}, "train_y is text"),
        ("values", np.ones((20, 2)), {"classes": 3}, "classes = 3, but train_y has 2 columns"),
        ("tokens", np.ones(20, int), {}, r"train_y is \[20\] .* int64 \[samples, positions\]"),
        ("tokens", np.full((20, 2), 7), {"classes": 5}, r"train_y\[0, 0\] = 7: .* 0..4"),
        ("labels", np.ones((20, 2)), {}, "targets = 'labels': must be one of classes, multi_hot"),
    ],
)
def test_what_does_not_fit_its_kind_is_refused(kind, y, more, problem):
    with pytest.raises(ConfigError, match=f"mine: .*{problem}"):
        given(kind, y, **more)


def test_rows_of_targets_without_a_kind_are_told_of_kinds():
    with pytest.raises(ConfigError, match="`targets` must say that it is multi_hot, values or tok"):
        given("classes", np.ones((20, 2)))


def test_equal_arrays_of_another_kind_are_other_data():
    y = (np.arange(40).reshape(20, 2) % 2).astype(np.float32)
    assert given("values", y).digest() != given("multi_hot", y).digest()


def test_values_are_split_by_tenths_and_labels_by_their_first():
    values = np.random.default_rng(0).permutation(20) / 3
    labels, count = labels_to_split(given("values", values))
    assert count == BINS and np.bincount(labels).tolist() == [2] * BINS
    assert values[labels == 0].max() < values[labels == 9].min()
    hot = np.zeros((20, 3))
    hot[1, 2] = hot[2, 1] = hot[2, 2] = 1
    assert labels_to_split(given("multi_hot", hot))[0][:3].tolist() == [3, 2, 1]


def test_a_skewed_split_gives_clients_values_of_their_own():
    data = given("values", np.arange(20) / 7)
    parts = split(data, PartitionConfig("shards", shards=1), 5, 0)
    spans = [np.ptp(data.train_y[parts.of(client)]) for client in range(5)]
    assert max(spans) < 1 < np.ptp(data.train_y)


def test_sequences_cannot_be_skewed_by_label():
    data = given("tokens", np.ones((20, 2), int), classes=3)
    with pytest.raises(ConfigError, match="dirichlet.*use natural, iid or quantity_skew"):
        split(data, PartitionConfig("dirichlet"), 4, 0)
    assert len(split(data, PartitionConfig("iid"), 4, 0).sizes) == 4
