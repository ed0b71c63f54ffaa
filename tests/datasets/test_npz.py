"""Data sets in one .npz file."""

import numpy as np
import pytest

from fedsmu_ray.datasets import mapped, npz
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, small_arrays


def test_npz(tmp_path):
    np.savez(tmp_path / "own.npz", **small_arrays(clients=np.arange(24) % 6))
    data = load("npz", tmp_path / "own.npz")
    assert data.train_x.dtype == np.uint8 and data.is_image
    assert data.classes == 4 and data.clients.max() == 5
    np.savez(tmp_path / "gray.npz", **small_arrays(shape=(8, 8)))
    assert load("npz", tmp_path / "gray.npz").shape == (1, 8, 8)
    (tmp_path / "half.npz").write_bytes((tmp_path / "own.npz").read_bytes()[:3000])
    with pytest.raises(ConfigError, match="half.npz cannot be read"):
        load("npz", tmp_path / "half.npz")
    np.savez_compressed(tmp_path / "hole.npz", **small_arrays())
    raw = bytearray((tmp_path / "hole.npz").read_bytes())
    raw[200:260] = bytes(60)
    (tmp_path / "hole.npz").write_bytes(raw)
    with pytest.raises(ConfigError, match="hole.npz cannot be read"):
        load("npz", tmp_path / "hole.npz")
    with pytest.raises(ConfigError, match="is not an .npz file; set data.root to the file itself"):
        load("npz", tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4"])
def test_large_samples_are_read_in_blocks(tmp_path, cache_folder, monkeypatch, save, dtype):
    x = np.random.default_rng(0).normal(size=(24, 3, 4)).astype(dtype)
    files = tmp_path / "own.npz", tmp_path / "fortran.npz"
    for file, order in zip(files, "CF"):
        save(file, **small_arrays(train_x=np.asarray(x, order=order), test_x=x[:8]))
    wanted = load("npz", files[0]).digest()
    monkeypatch.setattr(mapped, "LARGE", 100)
    monkeypatch.setattr(mapped, "BLOCK", 500)
    for file in files:
        data = load("npz", file)
        assert data.digest() == wanted and mapped._mapping(data.train_x) is not None
    with np.load(files[0]) as file:
        train_x = npz._array(file, "train_x")
        assert train_x.dtype == np.float32
        assert (mapped._mapping(train_x) is not None) == dtype.endswith("8")  # read as it is
    files[0].write_bytes(files[0].read_bytes().replace(x.tobytes()[:99], x.tobytes()[1:100]))
    if save is np.savez:
        with pytest.raises(ConfigError, match="own.npz cannot be read"):
            load("npz", files[0])


def test_arrays_that_do_not_fit_name_the_file(tmp_path):
    np.savez(tmp_path / "own.npz", **small_arrays(test_y=np.full(8, 4)))
    with pytest.raises(
        ConfigError, match=r"data.root: .*own.npz: test_y\[0\] = 4: no training sample"
    ):
        load("npz", tmp_path / "own.npz")
