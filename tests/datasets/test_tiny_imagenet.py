"""Tiny-ImageNet in its distributed format, complete and broken."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_image


def test_classes_that_are_not_listed_are_named(tiny_imagenet, caplog):
    write_image(tiny_imagenet / "train/n99/images/n99_0.JPEG")
    assert load("tiny_imagenet", tiny_imagenet).classes == 3
    assert "train: skipped 1 files or folders, as they are not images in a class" in caplog.text
    assert caplog.messages[0].endswith(": n99")


def test_tiny_imagenet(tiny_imagenet):
    for folder in ("", "train", "train/n01/images", "val", "val/images"):
        (tiny_imagenet / folder / ".DS_Store").write_bytes(b"")
    data = load("tiny_imagenet", tiny_imagenet.parent)
    assert data.train_x.shape == (12, 3, 8, 8) and data.classes == 3
    assert data.test_y.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = np.asarray(Image.open(tiny_imagenet / "train/n01/images/n01_1.JPEG"))
    assert np.array_equal(data.train_x[5], pixels.transpose(2, 0, 1))
    scaled = data.train_x / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)))
    assert data.std == pytest.approx(scaled.std((0, 2, 3)))


@pytest.mark.parametrize(
    "what, message",
    [
        ("train", "1 of 3 classes have too few images .n02 has 3, others 4.; unpack it"),
        ("class", "n01 has 0, others 4"),
        ("val", "val_3.JPEG is missing .line 4 of val_annotations.txt"),
        ("label", "val_annotations.txt, line 6: label 'n99' of 'val_5.JPEG' is not in wnids.txt"),
        ("annotations", "val_annotations.txt, the file of the validation labels, is missing"),
        ("short", "labels 3 of 6 images"),
        ("size", "n01_2.JPEG is 9x8 pixels, the others are 8x8"),
        ("half", "n01_2.JPEG is not a readable image"),
        ("wnids", "no wnids.txt in"),
    ],
)
def test_broken_tiny_imagenet_is_named(tiny_imagenet, what, message):
    annotations = tiny_imagenet / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines()
    match what:
        case "train":
            (tiny_imagenet / "train/n02/images/n02_0.JPEG").unlink()
        case "class":
            shutil.rmtree(tiny_imagenet / "train/n01")
        case "val":
            (tiny_imagenet / "val/images/val_3.JPEG").unlink()
        case "label":
            annotations.write_text("\n".join([*lines[:5], lines[5].replace("n02", "n99")]))
        case "annotations":
            annotations.unlink()
        case "short":
            annotations.write_text("\n".join(lines[:3]))
        case "size":
            write_image(tiny_imagenet / "train/n01/images/n01_2.JPEG", size=(9, 8))
        case "half":
            file = tiny_imagenet / "train/n01/images/n01_2.JPEG"
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        case "wnids":
            (tiny_imagenet / "wnids.txt").unlink()
    with pytest.raises(ConfigError, match=message):
        load("tiny_imagenet", tiny_imagenet)
