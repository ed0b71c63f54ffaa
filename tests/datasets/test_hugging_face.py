"""Hugging Face data sets of images, and the error without the package `datasets`."""

import sys
import types

import pytest

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
