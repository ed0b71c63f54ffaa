"""The nodes of the Ray cluster: names, resources, and a line for each that comes or goes."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state as ray_state
from ray.exceptions import RaySystemError

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # nodes that join are told as well

POLL_S = 2.0
HEAD = "node:__internal_head__"  # a resource of the head only
MOST_LISTED = 8  # nodes in a message


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    id: str
    name: str  # of its host
    resources: Mapping[str, float]

    @property
    def is_head(self) -> bool:
        """Whether the GCS server runs there."""
        return HEAD in self.resources

    def __str__(self) -> str:
        return f"{self.name} ({amount(self.resources)})"


def this_node() -> str:
    """The id of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def nodes() -> list[Node]:
    """The nodes that are alive, the head first."""
    return _named([node for node in ray.nodes() if node["Alive"]])


def _named(alive: list[dict[str, Any]]) -> list[Node]:
    """Nodes by the names of their hosts, with a part of the id where a host has several."""
    hosts = Counter(node["NodeManagerHostname"] for node in alive)
    found = []
    for node in alive:
        host, id = node["NodeManagerHostname"], node["NodeID"]
        name = host if hosts[host] == 1 else f"{host}/{id[:6]}"
        found.append(Node(id, name, node["Resources"]))
    return sorted(found, key=lambda node: (not node.is_head, node.name))


def amount(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs, for a message."""
    parts = []
    for key, unit in (("CPU", "CPU"), ("GPU", "GPU")):
        value = resources.get(key, 0)
        if value or key == "CPU":
            parts.append(f"{value:g} {unit}{'s' * (value != 1)}")
    return ", ".join(parts)


def listed(found: list[Node]) -> str:
    """Some nodes with their resources, for a message."""
    more = [f"and {len(found) - MOST_LISTED} more"] * (len(found) > MOST_LISTED)
    return ", ".join([*map(str, found[:MOST_LISTED]), *more])


def free() -> str:
    """What is free on each node, for a message."""
    available = ray_state.available_resources_per_node()
    return listed([Node(node.id, node.name, available.get(node.id, {})) for node in nodes()])


@contextmanager
def watched_nodes() -> Iterator[None]:
    """Log a line for every node that joins the cluster or is lost."""
    ended, known = threading.Event(), {node.id: node for node in nodes()}

    def watch() -> None:
        nonlocal known
        while not ended.wait(POLL_S):
            try:
                known = _tell_changes(known)
            except (RaySystemError, ConnectionError) as error:  # `ray_watch` tells what ends Ray
                log.debug("the nodes cannot be listed: %s", error)

    thread = threading.Thread(target=watch, name="ray-nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(POLL_S)  # it waits for longer where the GCS server is gone


def _tell_changes(known: Mapping[str, Node]) -> dict[str, Node]:
    """Log how the nodes differ from those that are known; returns those that are alive."""
    listed_now = ray.nodes()
    now = {node.id: node for node in _named([node for node in listed_now if node["Alive"]])}
    why = {node["NodeID"]: node.get("DeathReasonMessage", "") for node in listed_now}
    for id, node in known.items():
        if id not in now:
            reason = " ".join(why.get(id, "").split()).split(". ")[0].rstrip(".")
            reason = f" ({reason[:200]})" if reason else ""
            log.warning("node lost: %s%s; nodes left: %d", node, reason, len(now))
    for id, node in now.items():
        if id not in known:
            log.info("node joined: %s; nodes now: %d", node, len(now))
    return now
