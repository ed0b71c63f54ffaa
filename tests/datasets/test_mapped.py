"""Large arrays in mapped files."""

import mmap
import os
from dataclasses import replace

import numpy as np
import pytest

from fedsmu_ray.datasets import mapped
from fedsmu_ray.datasets.arrays import from_arrays
from fedsmu_ray.datasets.mapped import RowWriter, in_files, pages_released
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, small_arrays


@pytest.fixture
def all_large(monkeypatch, cache_folder):
    """Arrays of more than 100 bytes are large, and are written 1000 bytes at a time."""
    monkeypatch.setattr(mapped, "LARGE", 100)
    monkeypatch.setattr(mapped, "BLOCK", 1000)


def resident(array):
    """Bytes of a mapped array that are in this process's memory."""
    address, found = f"{array.ctypes.data:x}-", False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            found = found or line.startswith(address)
            if found and line.startswith("Rss:"):
                return 1024 * int(line.split()[1])
    raise AssertionError("it is not a mapping of its own")


@pytest.mark.parametrize("shape", [[5], [3, 4, 4]])
def test_a_large_data_set_is_the_same_in_files(all_large, cache_folder, shape):
    options = {"shape": shape, "train": 300, "test": 30}
    dataset = load("synthetic", **options)
    mapped.LARGE = 1 << 27  # undone with the fixture
    in_memory = load("synthetic", **options)
    assert isinstance(mapped._mapping(dataset.train_x), mmap.mmap)
    assert isinstance(mapped._mapping(dataset.test_x), mmap.mmap)
    assert mapped._mapping(in_memory.train_x) is None
    assert np.array_equal(dataset.train_x, in_memory.train_x)
    assert dataset.train_x.dtype == in_memory.train_x.dtype
    assert dataset.digest() == in_memory.digest()
    assert not os.listdir(cache_folder)  # the files have no names


@pytest.mark.parametrize("kind", ["float64", "float16", "int16", "fortran"])
def test_large_arrays_of_other_types_are_converted_to_files(all_large, kind, monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 7)) * 3
    x = np.asfortranarray(x) if kind == "fortran" else np.abs(x).astype(kind)
    y = np.arange(60) % 3
    arrays = {"train_x": x, "train_y": y, "test_x": x, "test_y": y}
    dataset = from_arrays("mine", arrays, "here")
    monkeypatch.setattr(mapped, "LARGE", 1 << 27)
    assert mapped._mapping(dataset.train_x) is not None
    assert dataset.digest() == from_arrays("mine", arrays, "here").digest()


def test_pages_are_given_back_and_read_again(all_large):
    dataset = load("synthetic", shape=[64], train=40_000, test=5)  # 10 MB
    total = int(dataset.train_x.sum(dtype=np.float64) * 1000)
    assert resident(dataset.train_x) > 9_000_000
    with pages_released(dataset.train_x):
        pass
    assert resident(dataset.train_x) < 1_000_000
    assert int(dataset.train_x.sum(dtype=np.float64) * 1000) == total


@pytest.mark.parametrize("kind", ["uint8", "float32", "int64"])
def test_checking_a_data_set_leaves_no_pages_in_memory(all_large, kind):
    rows = np.random.default_rng(0).integers(5, size=(3000, 1, 40, 40)).astype(kind)
    x = (rows if kind == "uint8" else rows.reshape(3000, -1))[..., ::-1]  # has to be copied
    y = np.arange(3000) % 3
    arrays = {"train_x": x, "train_y": y, "test_x": x[:30], "test_y": y[:30]}
    dataset = from_arrays("mine", arrays, "here")
    assert dataset.train_x.nbytes > 4_000_000 and resident(dataset.train_x) < 1_000_000
    assert np.array_equal(dataset.train_x, x)


def test_pages_that_were_written_are_kept(all_large, tmp_path):
    """A user's function may return a mapping in which it has changed values."""
    np.save(tmp_path / "x.npy", np.zeros((2000, 8), np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="c")
    x[:] = 1
    dataset = load("synthetic", shape=[8], train=4, test=4)
    with pages_released(x):
        pass
    assert x.all()
    assert in_files(replace(dataset, train_x=x)).train_x.all()


def test_without_space_the_data_stay_in_memory(all_large, cache_folder, monkeypatch):
    wanted = load("synthetic", shape=[5], train=300).digest()
    cache_folder.rmdir()
    cache_folder.write_text("a file, where the folder should be")
    dataset = load("synthetic", shape=[5], train=300)
    assert mapped._mapping(dataset.train_x) is None and dataset.digest() == wanted
    with pytest.raises(ConfigError, match="FEDSMU_CACHE"):
        from_arrays("mine", small_arrays(train_x=np.zeros((24, 9))), "here")


@pytest.mark.parametrize("blocks", [[3], [3, 0, 4], [1] * 30])
def test_rows_written_in_blocks_are_one_array(all_large, blocks):
    rng = np.random.default_rng(0)
    written = [rng.integers(9, size=(n, 2, 2)) for n in blocks]
    with RowWriter() as writer:
        for block in written:
            writer.append(block)
        whole = writer.array()
    assert np.array_equal(whole, np.concatenate(written)) and whole.dtype == np.int64
    assert (mapped._mapping(whole) is not None) == (whole.nbytes > 100)
