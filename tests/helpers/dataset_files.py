"""Small data sets in the formats that the real ones are distributed in, written for tests."""

import gzip
import hashlib
import json
import pickle

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from fedsmu_ray.config.schema import DataConfig


def write_idx(folder, name, array, zipped=True):
    raw = (
        bytes((0, 0, 8, array.ndim))
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
    )
    (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)


def write_mnist(folder, zipped=True, train=40):
    rng = np.random.default_rng(0)
    for stem, n in (("train", train), ("t10k", 10)):
        write_idx(
            folder,
            f"{stem}-images-idx3-ubyte",
            rng.integers(256, size=(n, 28, 28)).astype(np.uint8),
            zipped,
        )
        write_idx(
            folder, f"{stem}-labels-idx1-ubyte", rng.integers(10, size=n).astype(np.uint8), zipped
        )


def write_cifar(root, monkeypatch, per_file=8):
    """CIFAR-10 and CIFAR-100 in the format of the Python version; torchvision is told the checksums of these files."""

    def write(kind, names, key, classes):
        (root / kind.base_folder).mkdir(parents=True, exist_ok=True)
        rng, listed = np.random.default_rng(0), []
        for name in names:
            pixels = rng.integers(256, size=(per_file, 3072)).astype(np.uint8)
            raw = pickle.dumps({"data": pixels, key: rng.integers(classes, size=per_file).tolist()})
            (root / kind.base_folder / name).write_bytes(raw)
            listed.append([name, hashlib.md5(raw).hexdigest()])
        meta = pickle.dumps({kind.meta["key"]: [str(i) for i in range(classes)]})
        (root / kind.base_folder / kind.meta["filename"]).write_bytes(meta)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": hashlib.md5(meta).hexdigest()})
        monkeypatch.setattr(kind, "train_list", listed[:-1])
        monkeypatch.setattr(kind, "test_list", listed[-1:])

    write(CIFAR10, ["data_batch_1", "data_batch_2", "test_batch"], "labels", 10)
    write(CIFAR100, ["train", "test"], "fine_labels", 100)


def image(path, seed=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_images(root, split, name, count, size=(6, 5)):
    (root / split / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def write_leaf(root, change=None, splits=("train",)):
    """Two users, each a text cut into windows of 5 characters and the next one; `change` edits the files of `splits`."""
    for split, text in (
        ("train", "To be, or not to be\nthat is"),
        ("test", "the question: whether"),
    ):
        windows = [(text[i : i + 5], text[i + 5]) for i in range(len(text) - 5)]
        of = {"HAMLET": windows, "GHOST": windows[4:]}
        data = {
            user: {"x": [x for x, _ in own], "y": [y for _, y in own]} for user, own in of.items()
        }
        plain = {
            "users": list(data),
            "num_samples": [len(own) for own in of.values()],
            "user_data": data,
        }
        if split in splits and change:
            change(plain)
        (root / split).mkdir(parents=True, exist_ok=True)
        (root / split / "all.json").write_text(json.dumps(plain))
    return DataConfig("shakespeare", str(root))


def write_hugging_face(datasets, folder):
    """9 training and 4 test images of 6x6 in 2 classes, of 3 writers, as `save_to_disk` lays them out."""
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "writer": datasets.Value("string"),
        }
    )

    def split(n):
        rows = {
            "img": [Image.fromarray(np.full((6, 6, 3), 10 * i, np.uint8)) for i in range(n)],
            "label": [i % 2 for i in range(n)],
            "writer": [f"w{i % 3}" for i in range(n)],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": split(9), "test": split(4)}).save_to_disk(folder)
