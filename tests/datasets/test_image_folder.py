"""Folders of image files."""

import pytest

from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_images


def test_image_folder(tmp_path, cache_folder):
    with pytest.raises(ConfigError, match="train has no class folders"):
        load("image_folder", tmp_path)
    for name in ("cat", "dog"):
        write_images(tmp_path, "train", name, 3)
    with pytest.raises(ConfigError, match="test is missing"):
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
