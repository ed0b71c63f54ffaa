"""Fixtures of the tests that decode images."""

import pytest

from tests.helpers.dataset_files import write_tiny_imagenet


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """An empty cache folder for one test."""
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_imagenet(tmp_path, cache_folder):
    """A folder with a Tiny-ImageNet of three classes, 4 training and 2 validation images each."""
    root = tmp_path / "tiny-imagenet-200"
    write_tiny_imagenet(root)
    return root
