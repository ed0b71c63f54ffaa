"""The cache of decoded images: reused, and rebuilt when it is damaged or outdated."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedsmu_ray.datasets import cache, images
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_image


def entries():
    """The entries of the cache, and what is left of temporary ones."""
    return [path for path in cache.folder().iterdir() if path.suffix != ".lock"]


def test_processes_make_an_entry_one_after_another(tiny_imagenet, monkeypatch):
    """Four at once: one decodes, and the others take what it has made."""
    made, make = [], cache._make
    monkeypatch.setattr(cache, "_make", lambda *given: (made.append(1), make(*given)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load("tiny_imagenet", tiny_imagenet).digest(), range(4)))
    assert len(set(found)) == 1 and len(made) == 1


def test_images_are_decoded_once(tiny_imagenet, cache_folder, monkeypatch):
    first = load("tiny_imagenet", tiny_imagenet)
    (entry,) = entries()
    monkeypatch.setattr(images, "_decode", None)  # decoding again would fail
    again = load("tiny_imagenet", tiny_imagenet)
    assert np.array_equal(first.train_x, again.train_x)
    assert again.mean == first.mean and again.std == first.std
    assert type(again.train_x) is np.ndarray
    assert not again.train_x.flags.writeable and not again.train_x.flags.owndata
    assert entries() == [entry]  # no temporary file is left


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda entry: os.truncate(entry / "train_x.npy", 200), "train_x.npy is damaged"),
        (lambda entry: (entry / "test_x.npy").write_bytes(b""), "test_x.npy is damaged"),
        (lambda entry: (entry / "meta.json").write_text("{"), "damaged (JSONDecodeError"),
        (lambda entry: (entry / "train_y.npy").unlink(), "damaged (FileNotFoundError"),
    ],
)
def test_a_damaged_cache_is_reported_and_rebuilt(
    tiny_imagenet, cache_folder, caplog, damage, message
):
    pixels = load("tiny_imagenet", tiny_imagenet).train_x.copy()
    (entry,) = entries()
    damage(entry)
    with caplog.at_level(logging.WARNING):
        again = load("tiny_imagenet", tiny_imagenet)
    assert message in caplog.text and str(entry) in caplog.text
    assert "decoding the images again" in caplog.text
    assert np.array_equal(again.train_x, pixels)


def test_changed_images_are_decoded_again(tiny_imagenet, caplog):
    before = load("tiny_imagenet", tiny_imagenet).train_x.copy()
    write_image(tiny_imagenet / "train/n03/images/n03_0.JPEG", seed=77)
    os.utime(tiny_imagenet / "train/n03/images/n03_0.JPEG", (1, 1))
    after = load("tiny_imagenet", tiny_imagenet).train_x
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1:], after[1:])
    assert "the image files have changed since it was made" in caplog.text


def test_a_cache_that_cannot_be_written(tiny_imagenet, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be written: .*FEDSMU_CACHE"):
        load("tiny_imagenet", tiny_imagenet)
    assert cache.folder() == tmp_path / "file"


def test_a_disk_without_space_is_found_before_anything_is_written(tiny_imagenet, monkeypatch):
    usage = cache.shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage._replace(free=100))
    with pytest.raises(ConfigError, match="0.0 GB are needed and 0.0 GB free; set .FEDSMU_CACHE"):
        load("tiny_imagenet", tiny_imagenet)
    assert not entries()
