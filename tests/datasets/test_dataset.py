"""What every data set has: its digest."""

from dataclasses import replace

import numpy as np
import pytest

from fedsmu_ray.datasets import dataset
from fedsmu_ray.datasets.dataset import Dataset, moments

DATA = Dataset(
    "own",
    np.random.default_rng(0).integers(256, size=(40, 3, 5, 4)).astype(np.uint8),
    np.arange(40) % 4,
    np.random.default_rng(1).integers(256, size=(8, 3, 5, 4)).astype(np.uint8),
    np.arange(8) % 4,
    4,
    (0.5, 0.4, 0.3),
    (0.2, 0.2, 0.2),
    clients=np.arange(40) // 10,
)


def changed(array):
    """A copy whose last element differs."""
    copy = array.copy()
    copy.flat[-1] += 1
    return copy


@pytest.mark.parametrize(
    "change",
    [
        *({key: changed(getattr(DATA, key))} for key in ("train_x", "train_y", "test_x", "test_y")),
        {"clients": changed(DATA.clients)},
        {"clients": None},
        {"classes": 5},
        {"mean": (0.5, 0.4, 0.31)},
        {"std": (0.2, 0.2, 0.21)},
        {"mean": None, "std": None},
        {"scale": 16.0},
        {"symbols": 0},
        {"train_x": DATA.train_x[:-1]},
        {"train_x": DATA.train_x.reshape(40, 3, 4, 5)},
        {"train_x": DATA.train_x.view(np.int8)},
    ],
    ids=lambda change: ",".join(change),
)
def test_the_digest_tells_data_sets_apart(change):
    assert replace(DATA, **change).digest() != DATA.digest()


def test_the_digest_depends_on_values_alone(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", DATA.train_x)
    same = replace(
        DATA,
        name="another",
        train_x=np.load(tmp_path / "x.npy", mmap_mode="r"),
        train_y=DATA.train_y.astype(">i8"),
        test_x=np.asfortranarray(DATA.test_x),
        test_y=np.repeat(DATA.test_y, 2)[::2],
        mean=tuple(np.array(DATA.mean)),
        classes=np.int64(4),
    )
    assert same.digest() == DATA.digest() == "90b1acf25991c826d9a743bd4cb16d6e"
    monkeypatch.setattr(dataset, "BLOCK_BYTES", 100)  # of many blocks
    assert same.digest() == DATA.digest() == "90b1acf25991c826d9a743bd4cb16d6e"


def test_moments_are_the_same_in_blocks_of_any_size(monkeypatch):
    whole = moments(DATA.train_x, 255.0)
    monkeypatch.setattr(dataset, "BLOCK_BYTES", 500)  # two images at a time
    assert moments(DATA.train_x, 255.0) == whole
    scaled = DATA.train_x / 255
    assert whole[0] == pytest.approx(scaled.mean((0, 2, 3)))
    assert whole[1] == pytest.approx(scaled.std((0, 2, 3)))
