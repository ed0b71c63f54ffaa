"""What is placed where, on a Ray cluster of three nodes with GPUs that only Ray believes in.

Prints the findings as JSON. The nodes are raylets on this machine.
"""

import json
import logging
import os
import time

import ray
from ray.cluster_utils import Cluster

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_placement
from fedsmu_ray.executors.ray_backend import RayBackend
from fedsmu_ray.executors.ray_clients import ClientPool
from fedsmu_ray.executors.ray_executor import RayExecutor
from fedsmu_ray.executors.ray_nodes import nodes, watched_nodes
from fedsmu_ray.executors.ray_server import ServerInActor
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.rounds import rounds

PLAIN = {
    "data": {"clients": 12},
    "model": {"hidden": [8]},
    "local": {"epochs": 1},
    "federation": {"rounds": 400, "cohort": 12, "eval_every": 400},
    "compute": {"clients_per_task": 1, "cpus_per_actor": 1},
}


def placed(share: float, count: int, expected: int) -> dict[str, int]:
    """Client actors on each card, `<node> <what CUDA_VISIBLE_DEVICES says>`."""

    def card(self: object) -> str:
        node = ray.get_runtime_context().get_node_id()
        return f"{node[:8]} {os.environ.get('CUDA_VISIBLE_DEVICES')}"

    pool = ClientPool(ComputeConfig(cpus_per_actor=0.1, gpus_per_actor=share), count)
    refs = [actor.__ray_call__.remote(card) for actor in pool.actors]
    ready, _ = ray.wait(refs, num_returns=min(count, expected), timeout=300)
    ready += ray.wait([ref for ref in refs if ref not in ready] or refs[:1], timeout=2)[0]
    found = ray.get(ready)
    pool.close()
    return {each: found.count(each) for each in sorted(set(found))}


def refusals() -> list[str]:
    """What is said of client actors that cannot be placed, and of cards that are not there."""
    said = []
    for compute in ({"gpus_per_actor": 3}, {"actors": 9, "gpus_per_actor": 0.4}, {"actors": 10}):
        try:
            ray_placement.check(ComputeConfig(**compute))
        except ExecutionError as error:
            said.append(str(error))
    problem = Problem.of(parse({**PLAIN, "compute": {"gpus_per_actor": 0.5}}))
    try:
        with RayBackend().open(problem, None):
            pass
    except ExecutionError as error:
        said.append(str(error))
    return said


def server_is_here() -> bool:
    """Whether the server actor is on the node of this process, each time."""
    servers = [ServerInActor() for _ in range(12)]
    call = [
        server.actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())
        for server in servers
    ]
    found = set(ray.get(call))
    for server in servers:
        server.close()
    return found == {ray.get_runtime_context().get_node_id()}


def grown(cluster: Cluster) -> list[int]:
    """Nodes that have trained clients, before and after a node has joined a running experiment."""
    problem = Problem.of(parse(PLAIN))
    executor = RayExecutor(problem.config.compute, 1, most_actors=12)
    executor.load(problem)
    counts, added = [], None
    for _ in rounds(problem, executor, Progress()):
        counts.append(len({place.node for place in executor.clients.processes.values()}))
        if added is None and counts[-1] > 1:  # the nodes of now
            added = cluster.add_node(num_cpus=2)
        if counts[-1] > 3:
            break
        time.sleep(0.1)
    executor.close()
    cluster.remove_node(added)
    return sorted(set(counts))


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=4, num_gpus=2)
    cluster.add_node(num_cpus=4, num_gpus=2, env_vars={"CUDA_VISIBLE_DEVICES": "MIG-aaaa,MIG-bbbb"})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    cluster.wait_for_nodes(timeout=300)
    with watched_nodes():
        found = {
            "nodes": [node.resources.get("GPU", 0) for node in nodes()],
            "fifths": placed(0.4, 10, 8),
            "whole": placed(2, 3, 2),
            "refusals": refusals(),
            "server_is_here": server_is_here(),
            "grown": grown(cluster),
        }
        time.sleep(6)  # for the line about the node that has gone
    print(json.dumps(found), flush=True)
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
