"""Data sets that are loaded on one node of the cluster for a process on another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors.ray_errors import first_sentence
from fedsmu_ray.executors.ray_nodes import this_node


def load_on(node: str, data: DataConfig, folder: Path) -> tuple[Dataset, Any]:
    """Load a data set on the node with this id, whose folder of data is `folder`.

    Other nodes may lack its files, and the module of an `import:`. Returns it and its reference in
    the object store; None if it was loaded in this process, which is on that node. Raises what
    `load_dataset` raises, and ExecutionError if the loading process or its node is lost.
    """
    what = data.dataset, data.options, folder, data.download
    if node == this_node():
        return load_dataset(*what), None
    on_it = NodeAffinitySchedulingStrategy(node, soft=False)
    loaded = _load.options(scheduling_strategy=on_it).remote(*what)
    try:
        return ray.get(loaded), loaded
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise ExecutionError(
            f"data.dataset = {data.dataset}: it could not be loaded on the node of the sweep's own "
            f"process ({first_sentence(error)}); see whether that node has the memory"
        ) from None


@ray.remote(num_cpus=0)
def _load(name: str, options: Mapping[str, Any], folder: Path, download: bool) -> Dataset:
    return load_dataset(name, options, folder, download)
