"""Folders of images, Tiny-ImageNet and the cache of decoded pixels."""

import logging
import os
import shutil

import numpy as np
import pytest
from helpers.dataset_files import image, write_images
from PIL import Image

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.datasets import cache
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    assert (
        data.train_x.shape == (6, 3, 5, 6)
        and data.train_y.tolist() == [0, 0, 0, 1, 1, 1]
        and data.test_y.tolist() == [1, 1]
    )
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


@pytest.fixture
def tiny(tmp_path):
    """A Tiny-ImageNet of three classes with four training and two validation images each."""
    root, wnids = tmp_path / "tiny-imagenet-200", ["n03", "n01", "n02"]
    lines = []
    for c, wnid in enumerate(wnids):
        for i in range(4):
            image(
                root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG",
                10 * c + i,
                mode="L" if i == 3 else "RGB",
            )
        for i in range(2):
            image(root / "val/images" / f"val_{2 * c + i}.JPEG", 100 + 2 * c + i)
            lines.append(f"val_{2 * c + i}.JPEG\t{wnid}\t0\t0\t7\t7")
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet(tiny):
    data = load_dataset(DataConfig("tiny_imagenet", str(tiny.parent)))
    assert (
        data.train_x.shape == (12, 3, 8, 8)
        and data.test_y.tolist() == [0, 0, 1, 1, 2, 2]
        and data.classes == 3
    )
    assert np.array_equal(
        data.train_x[5],
        np.asarray(Image.open(tiny / "train/n01/images/n01_1.JPEG")).transpose(2, 0, 1),
    )
    scaled = data.train_x / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3))) and data.std == pytest.approx(
        scaled.std((0, 2, 3))
    )


@pytest.mark.parametrize(
    "what, message",
    [
        ("train", "1 of 3 classes have too few images .n02 has 3, others 4.; unpack it"),
        ("class", "n01 has 0, others 4"),
        ("val", "val_3.JPEG is missing .line 4 of val_annotations.txt"),
        ("label", "val_annotations.txt, line 6: label 'n99' of 'val_5.JPEG' is not in wnids.txt"),
        ("annotations", "val_annotations.txt is missing"),
        ("short", "labels 3 of 6 images"),
        ("size", "n01_2.JPEG is 9x8 pixels, the others are 8x8"),
        ("half", "n01_2.JPEG is not a readable image"),
        ("wnids", "no wnids.txt in"),
    ],
)
def test_broken_tiny_imagenet_is_named(tiny, what, message):
    annotations = tiny / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines()
    match what:
        case "train":
            (tiny / "train/n02/images/n02_0.JPEG").unlink()
        case "class":
            shutil.rmtree(tiny / "train/n01")
        case "val":
            (tiny / "val/images/val_3.JPEG").unlink()
        case "label":
            annotations.write_text("\n".join([*lines[:5], lines[5].replace("n02", "n99")]))
        case "annotations":
            annotations.unlink()
        case "short":
            annotations.write_text("\n".join(lines[:3]))
        case "size":
            image(tiny / "train/n01/images/n01_2.JPEG", size=(9, 8))
        case "half":
            file = tiny / "train/n01/images/n01_2.JPEG"
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "wnids":
            (tiny / "wnids.txt").unlink()
    with pytest.raises(ConfigError, match=message):
        load_dataset(DataConfig("tiny_imagenet", str(tiny)))


def test_images_are_decoded_once(tiny, cache_folder, monkeypatch):
    config = DataConfig("tiny_imagenet", str(tiny))
    first = load_dataset(config)
    (entry,) = cache_folder.iterdir()
    from fedsmu_ray.datasets import images

    monkeypatch.setattr(images, "_decode", None)  # would fail
    again = load_dataset(config)
    assert (
        np.array_equal(first.train_x, again.train_x)
        and again.mean == first.mean
        and again.std == first.std
    )
    assert (
        type(again.train_x) is np.ndarray
        and not again.train_x.flags.writeable
        and not again.train_x.flags.owndata
    )
    assert os.listdir(cache_folder) == [entry.name]  # nothing temporary stays


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda entry: os.truncate(entry / "train_x.npy", 200), "train_x.npy is damaged"),
        (lambda entry: (entry / "test_x.npy").write_bytes(b""), "test_x.npy is damaged"),
        (lambda entry: (entry / "meta.json").write_text("{"), "damaged .JSONDecodeError"),
        (lambda entry: (entry / "train_y.npy").unlink(), "damaged .FileNotFoundError"),
    ],
)
def test_a_damaged_cache_is_named_and_made_again(tiny, cache_folder, caplog, damage, message):
    config = DataConfig("tiny_imagenet", str(tiny))
    first = load_dataset(config)
    pixels = first.train_x.copy()
    (entry,) = cache_folder.iterdir()
    damage(entry)
    with caplog.at_level(logging.WARNING):
        again = load_dataset(config)
    assert (
        message.split(" .")[0] in caplog.text
        and str(entry) in caplog.text
        and "decoding the images again" in caplog.text
    )
    assert np.array_equal(again.train_x, pixels)


def test_changed_images_are_decoded_again(tiny, caplog):
    config = DataConfig("tiny_imagenet", str(tiny))
    before = load_dataset(config).train_x.copy()
    image(tiny / "train/n03/images/n03_0.JPEG", seed=77)
    os.utime(tiny / "train/n03/images/n03_0.JPEG", (1, 1))
    after = load_dataset(config).train_x
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1:], after[1:])
    assert "made of other files than there are now" in caplog.text


def test_a_cache_that_cannot_be_written(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written: .*FEDSMU_CACHE"):
        load_dataset(DataConfig("tiny_imagenet", str(tiny)))
    assert cache.folder() == tmp_path / "file"
