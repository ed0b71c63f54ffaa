"""Hugging Face data sets of images, and the error without the package `datasets`."""

import mmap
import sys
import types

import numpy as np
import pytest
from PIL import Image

from fedsmu_ray.datasets import hugging_face, mapped
from fedsmu_ray.errors import ConfigError
from tests.helpers.dataset_files import load, write_hugging_face

NEEDS_PACKAGE = r"needs the package `datasets`; pip install 'fedsmu-ray\[hf\]'"


def test_hugging_face_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=NEEDS_PACKAGE):
        load("hf:mnist")
    with pytest.raises(ConfigError, match="data.options.picture: unknown key"):
        load("hf:mnist", picture="x")


def test_a_folder_named_datasets_is_not_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    with pytest.raises(ConfigError, match=NEEDS_PACKAGE):
        load("hf:mnist")


def test_hugging_face_from_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the optional extra hf")
    write_hugging_face(datasets, tmp_path / "own")
    data = load(f"hf:{tmp_path / 'own'}", client="writer")
    assert data.train_x.shape == (9, 3, 6, 6) and data.train_x[2, 0, 0, 0] == 20
    assert data.clients.tolist() == [0, 1, 2] * 3 and data.classes == 2
    no_split = "no split dev; set data.options.test to one of train, test"
    with pytest.raises(ConfigError, match=no_split):
        load(f"hf:{tmp_path / 'own'}", test="dev")
    no_column = "no column pixels; set data.options.image to one of img, label, writer"
    with pytest.raises(ConfigError, match=no_column):
        load(f"hf:{tmp_path / 'own'}", image="pixels")
    with pytest.raises(ConfigError, match="no column role; set data.options.client to one of img"):
        load(f"hf:{tmp_path / 'own'}", client="role")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(f"hf:{tmp_path / 'absent'}")


@pytest.fixture
def save(tmp_path):
    """Saves a data set of the given rows, the same for training and test; returns its name."""
    datasets = pytest.importorskip("datasets", reason="needs the optional extra hf")
    if not hasattr(datasets, "Features"):
        pytest.skip("needs the optional extra hf")

    def save(images, labels, **features):
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.Value("int64")} | features
        )
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "own")
        return f"hf:{tmp_path / 'own'}"

    return save


GRAY = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)


def test_16_bit_images_are_scaled(save):
    deep = Image.frombytes("I;16", (6, 5), (GRAY.astype("<u2") * 257).tobytes())
    data = load(save([deep, Image.fromarray(GRAY)], [0, 1]))
    assert data.train_x.tolist() == [[GRAY.tolist()]] * 2


def test_gray_images_among_those_in_color_are_converted(save, caplog):
    color = Image.new("RGBA", (6, 5), (255, 0, 0, 0))
    data = load(save([Image.fromarray(GRAY), color], [0, 1]))
    assert data.train_x[0].tolist() == [GRAY.tolist()] * 3
    assert data.train_x[1, :, 0, 0].tolist() == [255, 0, 0]
    assert "split train: images with transparent pixels, whose colors are used" in caplog.text


def test_many_images_are_kept_in_a_file_while_they_are_decoded(save, cache_folder, monkeypatch):
    gray, color = Image.fromarray(GRAY), Image.new("RGB", (6, 5), (255, 0, 9))
    name = save([gray, gray, gray, color, gray], [0, 1, 0, 1, 0])
    small = load(name)
    monkeypatch.setattr(hugging_face, "CHUNK", 2)
    monkeypatch.setattr(mapped, "LARGE", 100)
    large = load(name)
    assert isinstance(mapped._mapping(large.train_x), mmap.mmap)
    assert np.array_equal(large.train_x, small.train_x) and small.train_x.shape == (5, 3, 5, 6)
    assert small.train_x[2].tolist() == [GRAY.tolist()] * 3
    assert small.train_x[3, :, 0, 0].tolist() == [255, 0, 9]


@pytest.mark.parametrize("in_memory", [False, True])
def test_columns_are_read_in_blocks_and_equal_names_kept_once(save, in_memory, monkeypatch):
    import datasets

    monkeypatch.setattr(hugging_face, "CHUNK", 2)
    names = ["one", "two", "one", "two", "one"]
    name = save([Image.fromarray(GRAY)] * 5, names, label=datasets.Value("string"))
    loaded = datasets.load_from_disk(name.removeprefix("hf:"), keep_in_memory=in_memory)
    split = hugging_face._Split(loaded["train"], "here")
    assert bool(split.files) != in_memory
    values = hugging_face._distinct(split.values("label"))
    assert values == names and len(set(map(id, values))) == 2
    part = hugging_face._Split(loaded["train"].select(range(3)), "here")
    if not in_memory:
        with pytest.raises(ConfigError, match="its files hold 5 rows, but the split has 3"):
            list(part.values("label"))


def test_gray_images_beside_a_test_set_in_color(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the optional extra hf")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    splits = {
        key: datasets.Dataset.from_dict({"image": [image] * 2, "label": [0, 1]}, features)
        for key, image in (("train", Image.fromarray(GRAY)), ("test", Image.new("RGB", (6, 5))))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "own")
    data = load(f"hf:{tmp_path / 'own'}")
    assert data.train_x.tolist() == [[GRAY.tolist()] * 3] * 2
    assert data.test_x.shape == (2, 3, 5, 6)


def test_rows_that_are_no_images_are_named(save):
    import datasets

    with pytest.raises(ConfigError, match="image 1 is 7x5 pixels, the others are 6x5; resize"):
        load(save([Image.fromarray(GRAY), Image.new("L", (7, 5))], [0, 1]))
    deep = Image.fromarray(GRAY.astype(np.float32))
    with pytest.raises(ConfigError, match="image of row 0 is not a readable image .mode F: it is"):
        load(save([deep, deep], [0, 1]))
    with pytest.raises(ConfigError, match="image of row 1 is not a readable image .NoneType"):
        load(save([Image.fromarray(GRAY), None], [0, 1]))
    name = save([GRAY / 255] * 2, [0, 1], image=datasets.Array2D((5, 6), "float32"))
    with pytest.raises(ConfigError, match="row 0 is not a readable image .*float"):
        load(name, image="image")
    name = save([GRAY] * 2, [0, 1], image=datasets.Array2D((5, 6), "uint8"))
    assert load(name, image="image").train_x.tolist() == [[GRAY.tolist()]] * 2


def test_labels_are_classes(save, caplog):
    import datasets

    images = [Image.fromarray(GRAY)] * 3
    assert load(save(images, [3, 7, 3])).train_y.tolist() == [0, 1, 0]
    assert "the 2 labels 3, 7 are used as classes 0..1" in caplog.text
    name = save(images, ["cat", "dog", "cat"], label=datasets.Value("string"))
    assert load(name).train_y.tolist() == [0, 1, 0]
    with pytest.raises(ConfigError, match="train_y holds values of type NoneType"):
        load(save(images, [0, 1, None]))
    name = save(images, [0, 2, -1], label=datasets.ClassLabel(names=["a", "b", "c"]))
    with pytest.raises(ConfigError, match=r"train_y\[2\] = -1: labels must be in 0..2"):
        load(name)
