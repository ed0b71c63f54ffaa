"""Data sets and splits."""

import gzip
import pickle

import numpy as np
import pytest
import torch

from fedsmu_ray.config import DataConfig, PartitionConfig
from fedsmu_ray.data import DeviceData, partition
from fedsmu_ray.data.datasets import load_dataset
from fedsmu_ray.errors import ConfigError

KINDS = [PartitionConfig("dirichlet", 0.25), PartitionConfig("dirichlet", 0.01), PartitionConfig("iid")]


def labels(n=5000, classes=10, seed=0):
    return np.random.default_rng(seed).integers(classes, size=n)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("clients", [7, 50])
def test_split_is_disjoint_and_exactly_equal(config, clients):  # oracle 31
    y = labels()
    split = partition(config, y, 10, clients, seed=1)
    assert (split.sizes == len(y) // clients).all()
    assert len(split.indices.unique()) == len(split.indices) == clients * (len(y) // clients)
    owned = torch.cat([split.of(c) for c in range(clients)])
    counts = np.bincount(y[owned.numpy()], minlength=10)
    assert (counts <= np.bincount(y, minlength=10)).all()


def test_split_depends_on_the_seed_alone():
    y = labels()
    one, two, three = (partition(KINDS[0], y, 10, 20, seed).indices for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


def shares(split, y, clients):
    return np.stack([np.bincount(y[split.of(c).numpy()], minlength=10) / int(split.sizes[c]) for c in range(clients)])


def test_concentration_sets_the_skew():  # oracle 31
    y = labels(50_000)
    even = shares(partition(PartitionConfig("dirichlet", 1e6), y, 10, 100, 0), y, 100)
    assert abs(even - 0.1).max() < 0.08
    skewed = -np.sort(-shares(partition(PartitionConfig("dirichlet", 0.25), y, 10, 100, 0), y, 100))
    covering = (np.cumsum(skewed, 1) < 0.8).sum(1) + 1
    assert 2 <= np.median(covering) <= 4


def test_iid_of_many_even_classes_is_exact():  # oracle 32
    y = np.repeat(np.arange(100), 500)
    split = partition(PartitionConfig("iid"), y, 100, 100, 0)
    for c in range(100):
        assert (np.bincount(y[split.of(c).numpy()], minlength=100) == 5).all()


def test_too_many_clients():
    with pytest.raises(ConfigError, match="only 10 samples"):
        partition(KINDS[0], labels(10), 10, 11, 0)


def test_digits_are_normalised_on_the_device():
    data = load_dataset(DataConfig())
    assert (len(data.train_y), len(data.test_y), data.shape, data.train_x.dtype) == (1437, 360, (1, 8, 8), np.uint8)
    x, y = DeviceData(data, torch.device("cpu")).batch(torch.arange(1437)[None])
    assert x.shape == (1, 1437, 1, 8, 8) and y.shape == (1, 1437)
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3


def write_idx(folder, name, array, zipped=True):
    raw = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)


def write_mnist(folder, zipped=True):
    rng = np.random.default_rng(0)
    for stem, n in (("train", 40), ("t10k", 10)):
        write_idx(folder, f"{stem}-images-idx3-ubyte", rng.integers(256, size=(n, 28, 28)).astype(np.uint8), zipped)
        write_idx(folder, f"{stem}-labels-idx1-ubyte", rng.integers(10, size=n).astype(np.uint8), zipped)


@pytest.mark.parametrize("zipped, below", [(True, ""), (False, "FashionMNIST/raw")])
def test_idx_files(tmp_path, zipped, below):
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    write_mnist(tmp_path / below, zipped)
    data = load_dataset(DataConfig("fashion_mnist", str(tmp_path)))
    assert data.train_x.shape == (40, 1, 28, 28) and data.test_y.dtype == np.int64


def test_broken_idx_files_are_named(tmp_path):
    config = DataConfig("mnist", str(tmp_path))
    with pytest.raises(ConfigError, match="not found: looked for train-images.*data.download=true"):
        load_dataset(config)
    write_mnist(tmp_path, zipped=False)
    whole = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="t10k-images-idx3-ubyte is not a whole IDX file"):
        load_dataset(config)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(whole)
    write_idx(tmp_path, "train-labels-idx1-ubyte", np.full(40, 11, np.uint8), zipped=False)
    with pytest.raises(ConfigError, match="largest label 11"):
        load_dataset(config)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ConfigError, match="train-labels-idx1-ubyte.* is missing"):
        load_dataset(config)


def test_cifar_files_are_read_by_torchvision_which_checks_them(tmp_path, monkeypatch):
    """Files in the format of the Python version, written here; torchvision is told their checksums."""
    import hashlib

    from torchvision.datasets import CIFAR10, CIFAR100

    def write(kind, names, per_file, key, classes):
        (tmp_path / kind.base_folder).mkdir()
        rng, listed = np.random.default_rng(0), []
        for name in names:
            raw = pickle.dumps({"data": rng.integers(256, size=(per_file, 3072)).astype(np.uint8), key: rng.integers(classes, size=per_file).tolist()})
            (tmp_path / kind.base_folder / name).write_bytes(raw)
            listed.append([name, hashlib.md5(raw).hexdigest()])
        meta = pickle.dumps({kind.meta["key"]: [str(i) for i in range(classes)]})
        (tmp_path / kind.base_folder / kind.meta["filename"]).write_bytes(meta)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": hashlib.md5(meta).hexdigest()})
        monkeypatch.setattr(kind, "train_list", listed[:-1])
        monkeypatch.setattr(kind, "test_list", listed[-1:])

    with pytest.raises(ConfigError, match="cifar10: not found: looked for cifar-10-batches-py"):
        load_dataset(DataConfig("cifar10", str(tmp_path)))
    write(CIFAR10, ["data_batch_1", "data_batch_2", "test_batch"], 8, "labels", 10)
    write(CIFAR100, ["train", "test"], 8, "fine_labels", 100)
    data = load_dataset(DataConfig("cifar10", str(tmp_path)))
    assert data.train_x.shape == (16, 3, 32, 32) and data.test_x.shape == (8, 3, 32, 32) and data.classes == 10
    assert load_dataset(DataConfig("cifar100", str(tmp_path))).classes == 100
    (tmp_path / CIFAR10.base_folder / "data_batch_2").write_bytes(b"cut short")
    with pytest.raises(ConfigError, match="undamaged"):
        load_dataset(DataConfig("cifar10", str(tmp_path)))


def write_images(root, split, name, count, size=(6, 5)):
    from PIL import Image

    (root / split / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def test_image_folder(tmp_path):
    config = DataConfig("image_folder", str(tmp_path))
    with pytest.raises(ConfigError, match="train has no class folders"):
        load_dataset(config)
    for name in ("cat", "dog"):
        write_images(tmp_path, "train", name, 3)
    with pytest.raises(ConfigError, match="test is missing"):
        load_dataset(config)
    write_images(tmp_path, "test", "dog", 2)
    data = load_dataset(config)
    assert data.train_x.shape == (6, 3, 5, 6) and data.train_y.tolist() == [0, 0, 0, 1, 1, 1] and data.test_y.tolist() == [1, 1]
    (tmp_path / "train/dog/1.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="dog/1.png is not a readable image"):
        load_dataset(config)
    write_images(tmp_path, "train", "dog", 3, size=(7, 5))
    with pytest.raises(ConfigError, match="dog/0.png is 7x5 pixels, the others are 6x5"):
        load_dataset(config)
    write_images(tmp_path, "train", "dog", 3)
    write_images(tmp_path, "test", "bird", 1)
    with pytest.raises(ConfigError, match="classes without training images: bird"):
        load_dataset(config)
