"""What fits a Ray cluster: an actor needs its resources on one node, and a fraction on one card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from fedsmu_ray import environment
from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors.base import UNITS, actor_resources
from fedsmu_ray.executors.ray_nodes import amount, listed, nodes, this_node


def actors_on(resources: Mapping[str, float], compute: ComputeConfig) -> int:
    """How many client actors fit a node that has these resources and is otherwise empty."""
    fitting = _units(resources.get("CPU", 0)) // _units(compute.cpus_per_actor)
    share = max(1, _units(compute.gpus_per_actor)) if compute.gpus_per_actor else 0
    if share:
        cards = int(resources.get("GPU", 0))
        # A fraction is on one card: five of 0.4 do not fit on two.
        most = cards // (share // UNITS) if share >= UNITS else cards * (UNITS // share)
        fitting = min(fitting, most)
    return fitting


def _units(value: float) -> int:
    return round(value * UNITS)


def fitting_actors(compute: ComputeConfig) -> int:
    """How many client actors fit the nodes that are there, if these were empty."""
    return sum(actors_on(node.resources, compute) for node in nodes())


@dataclass(frozen=True)
class Growth:
    """What the cluster's autoscaler may add to the nodes of now."""

    most: float  # client actors on all nodes that there can be; infinite if that is not known
    what: str = ""  # the nodes it may have, for a message; "" if it adds none

    def in_words(self) -> str:
        """The end of a sentence about the nodes that are there."""
        return f"; the autoscaler may have {self.what}" if self.what else ""


def growth(compute: ComputeConfig) -> Growth:
    """What the autoscaler may bring for client actors of these resources."""
    now, found = fitting_actors(compute), nodes()
    if environment.is_kuberay():
        return Growth(math.inf, "what its RayCluster on Kubernetes allows")
    gcs = ray.get_runtime_context().gcs_address
    file = _autoscaler_file(gcs)
    if file is None:
        # The autoscaler is a process of the head, and cannot be seen from another node.
        own = this_node()
        is_head = next(node for node in found if node.id == own).is_head
        return Growth(now) if is_head else Growth(math.inf, "what is known on the head only")
    return _promised(yaml.safe_load(file.read_text(encoding="utf-8")), compute, now, len(found))


def _promised(config: Mapping[str, Any], compute: ComputeConfig, now: int, alive: int) -> Growth:
    """What a cluster file allows, for client actors of which `now` fit the `alive` nodes."""
    types, head = config["available_node_types"], config.get("head_node_type")
    left = workers = config.get("max_workers", 0)
    kinds = [
        (actors_on(kind.get("resources", {}), compute), kind.get("max_workers", workers), name)
        for name, kind in types.items()
        if name != head or config["provider"]["type"] == "local"
    ]
    if any("CPU" not in types[name].get("resources", {}) for _, _, name in kinds):
        # Hosts of one's own: what they have is known once they have joined.
        missing = workers + 1 - alive
        return Growth(math.inf, f"{missing} more hosts") if missing > 0 else Growth(now)
    most = actors_on(types[head].get("resources", {}), compute) if head in types else 0
    for each, count, _ in sorted(kinds, reverse=True):
        most += each * min(count, left)
        left -= min(count, left)
    what = ", ".join(
        f"{count} of type {name} ({amount(types[name]['resources'])})" for _, count, name in kinds
    )
    return Growth(max(now, most), f"at most {workers} workers: {what}")


def _autoscaler_file(gcs_address: str) -> Path | None:
    """The cluster file of the autoscaler that runs on this machine; None if there is none."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        options = dict(
            word.split("=", 1) for word in words if word.startswith("--") and "=" in word
        )
        path = options.get("--autoscaling-config", "")
        if path and options.get("--gcs-address") == gcs_address:
            return Path(path).expanduser()
    return None


def has_placed() -> bool:
    """Whether a placement group of this driver has its resources."""
    job = ray.get_runtime_context().get_job_id()  # with which the ids of its groups end
    groups = ray.util.placement_group_table()
    return any(id.endswith(job) and group["state"] == "CREATED" for id, group in groups.items())


def check(compute: ComputeConfig) -> Growth:
    """Raise ExecutionError, with the numbers, for what the cluster can never place.

    `compute.actors`, or one, have to fit at the same time. Returns what the autoscaler may still
    bring.
    """
    may, wanted = growth(compute), compute.actors or 1
    if may.most >= wanted:
        return may
    needs, found = amount(actor_resources(compute)), nodes()
    has = listed(found) + may.in_words()
    lower = "compute.cpus_per_actor" + " or compute.gpus_per_actor" * bool(compute.gpus_per_actor)
    if may.most < 1:
        raise ExecutionError(
            f"one client actor needs {needs} on one node, and none has that: {has}; lower {lower}"
        )
    raise ExecutionError(
        f"compute.actors = {wanted}: the cluster has room for {may.most:g} with {needs} each, on "
        f"{has}; lower compute.actors or {lower} (0.5 lets two share one)"
    )
