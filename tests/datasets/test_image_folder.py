"""Folders of image files."""

import os

import numpy as np
import pytest
from PIL import Image

from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_images


def test_image_folder(tmp_path, cache_folder):
    with pytest.raises(ConfigError, match="train has no class folders"):
        load("image_folder", tmp_path)
    for name in ("cat", "dog"):
        write_images(tmp_path, "train", name, 3)
    with pytest.raises(ConfigError, match="test is missing"):
        load("image_folder", tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(
        ConfigError, match="test: no class folders; images must be in <class>/ itself"
    ):
        load("image_folder", tmp_path)
    write_images(tmp_path, "test", "dog", 2)
    data = load("image_folder", tmp_path)
    assert data.train_x.shape == (6, 3, 5, 6)
    assert data.train_y.tolist() == [0, 0, 0, 1, 1, 1] and data.test_y.tolist() == [1, 1]
    (tmp_path / "train/dog/1.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="dog/1.png is not a readable image"):
        load("image_folder", tmp_path)
    write_images(tmp_path, "train", "dog", 3, size=(7, 5))
    with pytest.raises(ConfigError, match="dog/0.png is 7x5 pixels, the others are 6x5"):
        load("image_folder", tmp_path)
    write_images(tmp_path, "train", "dog", 3)
    write_images(tmp_path, "test", "bird", 1)
    with pytest.raises(ConfigError, match="classes without training images: bird"):
        load("image_folder", tmp_path)


@pytest.fixture
def folder(tmp_path, cache_folder):
    """An image folder of two classes, 3 training and 2 test images each."""
    for name in ("cat", "dog"):
        write_images(tmp_path, "train", name, 3)
        write_images(tmp_path, "test", name, 2)
    return tmp_path


def test_hidden_files_and_those_of_operating_systems_are_no_images(folder, caplog):
    before = load("image_folder", folder)
    for split in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            write_images(folder, split, name, 1)
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "cat/._0.png", "cat/Thumbs.db"):
            (folder / split / name).write_bytes(b"?")
    data = load("image_folder", folder)
    assert data.classes == 2 and data.digest() == before.digest()
    assert not caplog.text


def test_skipped_files_are_counted_and_named(folder, caplog):
    (folder / "train/readme.txt").write_text("")
    (folder / "train/cat/notes.pdf").write_text("")
    write_images(folder, "train/dog", "more", 1)
    assert len(load("image_folder", folder).train_y) == 6
    (line,) = caplog.messages
    assert line == (
        f"{folder / 'train'}: skipped 3 files or folders, as they are not images in a class "
        "folder: readme.txt, cat/notes.pdf, dog/more"
    )


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("content", ["nothing", "folders", "other files"])
def test_an_empty_class_is_an_error(folder, split, content):
    (folder / split / "dog").rename(folder / "elsewhere")
    (folder / split / "dog").mkdir()
    if content == "folders":
        write_images(folder, f"{split}/dog", "puppy", 2)
    if content == "other files":
        (folder / split / "dog/1.npy").write_bytes(b"")
    message = f"{split}: class folders without images: dog; images must be in <class>/ itself"
    with pytest.raises(ConfigError, match=message):
        load("image_folder", folder)


def test_one_class_is_an_error(tmp_path, cache_folder):
    for split in ("train", "test"):
        write_images(tmp_path, split, "images", 2)
    with pytest.raises(ConfigError, match="classes = 1: there must be at least two"):
        load("image_folder", tmp_path)


def test_classes_of_train_and_test_are_compared(folder, caplog):
    write_images(folder, "train", "bird", 1)
    assert load("image_folder", folder).classes == 3
    assert caplog.messages == [f"{folder / 'test'} has no images of bird"]
    (folder / "test/cat").rename(folder / "test/Cat")
    with pytest.raises(ConfigError, match="without training images: Cat; their folders must be"):
        load("image_folder", folder)


def test_every_suffix_of_a_still_image_is_read(folder):
    images = [".jfif", ".GIF", ".webp", ".tif", ".tga", ".jp2", ".pgm", ".ico", ".jpe"]
    for suffix in images:
        Image.new("RGB", (6, 5), (0, 0, 255)).save(folder / f"train/dog/z{suffix}", sizes=[(6, 5)])
    data = load("image_folder", folder)
    assert data.train_y.tolist() == [0] * 3 + [1] * (3 + len(images))
    assert data.train_x[6:, 2].min() > 240 > 10 > data.train_x[6:, 0].max()


def test_16_bit_images_are_scaled_and_others_are_refused(folder):
    gray = np.arange(30, dtype=np.uint16).reshape(5, 6) * 8 * 257
    Image.frombytes("I;16", (6, 5), gray.astype("<u2").tobytes()).save(folder / "train/cat/0.png")
    data = load("image_folder", folder)
    assert data.train_x[0].tolist() == [(gray // 257).tolist()] * 3
    Image.fromarray(gray.astype(np.float32)).save(folder / "train/dog/1.tiff")
    message = "dog/1.tiff is not a readable image .mode F: it is not known .*8 or 16 bits"
    with pytest.raises(ConfigError, match=message):
        load("image_folder", folder)


def test_what_images_lose_is_counted(folder, caplog):
    for i in range(2):
        Image.new("RGBA", (6, 5), (0, 0, 255, 9)).save(folder / f"train/cat/{i}.png")
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "blue")]
    frames[0].save(folder / "test/cat/0.gif", save_all=True, append_images=frames[1:])
    load("image_folder", folder)  # decodes them
    caplog.clear()
    load("image_folder", folder)  # takes them from the cache
    assert sorted(caplog.messages) == [
        f"{folder}: images with more than one frame, of which the first is used: 1, such as "
        f"{folder / 'test/cat/0.gif'}",
        f"{folder}: images with transparent pixels, whose colors are used as if they were opaque: "
        f"2, such as {folder / 'train/cat/0.png'}",
    ]


def test_a_dangling_link_is_named(folder):
    os.symlink(folder / "absent", folder / "train/dog/5.png")
    with pytest.raises(ConfigError, match="dog/5.png cannot be read .No such file"):
        load("image_folder", folder)
