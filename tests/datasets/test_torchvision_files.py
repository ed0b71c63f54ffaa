"""MNIST and CIFAR files in torchvision's layout."""

import gzip

import numpy as np
import pytest

from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_cifar, write_idx, write_mnist


@pytest.mark.parametrize("zipped, below", [(True, ""), (False, "FashionMNIST/raw")])
def test_idx_files(tmp_path, zipped, below):
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    write_mnist(tmp_path / below, zipped)
    data = load("fashion_mnist", tmp_path)
    assert data.train_x.shape == (40, 1, 28, 28) and data.test_y.dtype == np.int64


def test_broken_idx_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="not found: looked for train-images.*data.download=true"):
        load("mnist", tmp_path)
    write_mnist(tmp_path, zipped=False)
    whole = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="t10k-images-idx3-ubyte is not a complete IDX file"):
        load("mnist", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(whole)
    write_idx(tmp_path, "train-labels-idx1-ubyte", np.full(40, 11, np.uint8), zipped=False)
    with pytest.raises(ConfigError, match="largest label 11"):
        load("mnist", tmp_path)
    write_mnist(tmp_path, zipped=False, train=0)
    with pytest.raises(
        ConfigError, match="train_x .0, 1, 28, 28. .* must hold the same number .* at"
    ):
        load("mnist", tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ConfigError, match="train-labels-idx1-ubyte.* is missing"):
        load("mnist", tmp_path)


def test_damaged_archives_are_named(tmp_path):
    write_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    # The length is right, the content is not.
    swapped = whole[:1000] + whole[1000:1100][::-1] + whole[1100:]
    for raw in (whole[: len(whole) // 2], swapped, b"", gzip.compress(b"")):
        file.write_bytes(raw)
        with pytest.raises(
            ConfigError,
            match="train-images-idx3-ubyte.gz (cannot be read|is not a complete IDX file).*fetch",
        ):
            load("mnist", tmp_path)


def test_cifar_files_are_read_by_torchvision_which_checks_them(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cifar10: not found: looked for cifar-10-batches-py"):
        load("cifar10", tmp_path)
    write_cifar(tmp_path, monkeypatch)
    data = load("cifar10", tmp_path)
    assert data.train_x.shape == (16, 3, 32, 32) and data.test_x.shape == (8, 3, 32, 32)
    assert data.classes == 10
    assert load("cifar100", tmp_path).classes == 100
    (tmp_path / "cifar-10-batches-py/data_batch_2").write_bytes(b"cut short")
    with pytest.raises(ConfigError, match="undamaged"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-100-python/train").unlink()  # as after an interrupted download
    with pytest.raises(
        ConfigError,
        match=r"cifar100: not found: .*cifar-100-python .unpacked, undamaged.*data.download=true",
    ):
        load("cifar100", tmp_path)


@pytest.mark.parametrize("name, reader", [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_a_download_that_fails(name, reader, tmp_path, monkeypatch):
    from torchvision import datasets

    def refuse(root, train, download=False):
        assert download
        raise RuntimeError("Error downloading: connection lost")

    monkeypatch.setattr(datasets, reader, refuse)
    with pytest.raises(
        ConfigError,
        match=rf"{name}: the download to .* failed .*connection lost.*set data.root to its folder",
    ):
        load(name, tmp_path / "new", download=True)
