"""Small data sets in the formats of the real ones, and data functions as a user writes them."""

import gzip
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from fedsmu_ray.datasets.registry import load_dataset


def load(name, root="nowhere", download=False, **options):
    """Load a data set as an experiment with these settings does."""
    return load_dataset(name, options, Path(root), download)


def small_arrays(n=24, shape=(3, 8, 8), **more):
    """Arguments for `from_arrays`: random images of four classes."""
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(256, size=(n, *shape)).astype(np.uint8),
        "train_y": np.arange(n) % 4,
        "test_x": rng.integers(256, size=(8, *shape)).astype(np.uint8),
        "test_y": np.arange(8) % 4,
        **more,
    }


def user_loader(root, **options):
    """A data function as a user writes it."""
    return small_arrays(**options)


def user_loader_of_tokens(root):
    x = np.arange(60).reshape(12, 5) % 7
    return {"train_x": x, "train_y": x[:, 0], "test_x": x, "test_y": x[:, 0]}


def user_loader_that_returns_a_list(root):
    return [1, 2]


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
    """Write CIFAR-10 and CIFAR-100 in the Python format and give torchvision their checksums."""

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


def write_image(path, seed=0, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_images(root, split, name, count, size=(6, 5)):
    (root / split / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def write_tiny_imagenet(root):
    """Write a Tiny-ImageNet of three classes, 4 training and 2 validation images each."""
    wnids, lines = ["n03", "n01", "n02"], []
    for c, wnid in enumerate(wnids):
        for i in range(4):
            file = root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            write_image(file, 10 * c + i, mode="L" if i == 3 else "RGB")
        for i in range(2):
            write_image(root / "val/images" / f"val_{2 * c + i}.JPEG", 100 + 2 * c + i)
            lines.append(f"val_{2 * c + i}.JPEG\t{wnid}\t0\t0\t7\t7")
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")


def write_leaf(root, change=None, splits=("train",)):
    """Write two users, whose samples are windows of 5 characters and the next character.

    `change` edits the content of the files of `splits` before they are written.
    """
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


def write_hugging_face(datasets, folder):
    """Write 9 training and 4 test images of 6x6 in 2 classes, by 3 writers, with `save_to_disk`.

    Skips the test if the package `datasets` is missing and Python has imported the folder
    tests/datasets in its place.
    """
    if not hasattr(datasets, "Features"):
        pytest.skip("needs the optional extra hf")
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
