"""Fixtures of the tests that decode images."""

import pytest

from tests.helpers.dataset_files import write_tiny_imagenet


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("FEDSMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_imagenet(tmp_path, cache_folder):
    """The folder of a Tiny-ImageNet of three classes with four training and two validation images
    each.
    """
    root = tmp_path / "tiny-imagenet-200"
    write_tiny_imagenet(root)
    return root
