"""Data sets that another node loads."""

from pathlib import Path

import pytest

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError, ExecutionError
from fedsmu_ray.executors import ray_data
from fedsmu_ray.executors.ray_data import load_on, this_node

DATA = DataConfig(dataset="synthetic", options={"train": 100, "test": 20})
ALONE = load_dataset("synthetic", DATA.options, Path(), False).digest()


def test_on_this_node_it_is_loaded_in_this_process(ray_cluster, monkeypatch):
    monkeypatch.setattr(ray_data, "_load", None)
    dataset, stored = load_on(this_node(), DATA, Path())
    assert dataset.digest() == ALONE and stored is None


def test_it_is_loaded_on_another_node(ray_cluster, monkeypatch):
    node = this_node()
    monkeypatch.setattr(ray_data, "this_node", lambda: "another")
    dataset, stored = load_on(node, DATA, Path())
    assert dataset.digest() == ALONE and stored is not None
    missing = DataConfig(dataset="mnist")
    with pytest.raises(ConfigError, match="/nowhere"):
        load_on(node, missing, Path("/nowhere"))


def test_a_node_that_is_lost(ray_cluster):
    with pytest.raises(ExecutionError, match="data.dataset = synthetic: it could not be loaded"):
        load_on(56 * "0", DATA, Path())
