"""Run experiments on a Ray cluster of several nodes on this machine, one of which may be lost.

    python three_nodes.py CONFIGS.json NODES none|kill|stop ROUND

Each node has its own raylet, object store and worker processes. After record ROUND of the first
experiment the node that runs most client actors, other than the head, is killed, or stopped
(SIGSTOP) with all its processes so that it hangs. Prints the outcome as JSON.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from fedsmu_ray.config.validation import parse
from fedsmu_ray.executors.ray_executor import RayExecutor
from fedsmu_ray.experiment.resume import resumable
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress


def main(path: str, nodes: int, how: str, when: int) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    # By default Ray takes a minute to declare a hanging node dead; here a quarter of a minute.
    quick = {
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 5000,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    others = [cluster.add_node(num_cpus=1, resources={"other": 1}) for _ in range(nodes - 1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    cluster.wait_for_nodes(timeout=300)
    first, *more = [Problem.of(parse(plain)) for plain in json.loads(Path(path).read_text())]
    executor = RayExecutor(first.config.compute, nodes)
    executor.load(first)
    where = [
        ray.get(actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()))
        for actor in executor.clients.actors
    ]
    history = []
    for record in resumable(first, executor, Progress(), Path(path).parent / "run"):
        history.append(
            [
                record.round,
                record.train_loss,
                record.test_accuracy,
                record.test_loss,
                record.uplink_bytes,
                record.dropped,
            ]
        )
        if record.round == when and how != "none":
            node = max(others, key=lambda node: where.count(node.node_id))
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in [raylet, *raylet.children(recursive=True)]:
                process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    for _ in range(600):  # Ray may notice the loss only after the run has ended
        alive = sum(node["Alive"] for node in ray.nodes())
        if how == "none" or alive < nodes:
            break
        time.sleep(0.5)
    hashes = [executor.sha256()]
    for problem in more:
        executor.load(problem)
        list(resumable(problem, executor, Progress(), None))
        hashes.append(executor.sha256())
    print(
        json.dumps(
            {"history": history, "hashes": hashes, "nodes_used": len(set(where)), "alive": alive}
        ),
        flush=True,
    )
    for node in others:
        for process in node.all_processes["raylet"]:
            process.process.send_signal(signal.SIGCONT)
    executor.close()
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
