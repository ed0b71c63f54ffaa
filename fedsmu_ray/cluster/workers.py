"""Ends Ray on the workers of a cluster: `ray down` leaves its processes on hosts of one's own."""

from __future__ import annotations

import logging
import subprocess
import sys

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsmu_ray.executors.ray_nodes import nodes, this_node

WAIT_S = 20.0  # for all workers to answer
# Waits up to two minutes for the head to end: its autoscaler would start Ray on the worker again.
_STOP = """
import socket, subprocess, sys, time
for _ in range(120):
    time.sleep(1)
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
    except OSError:
        sys.exit(subprocess.call([sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"]))
"""


def stop_after_head() -> None:
    """Have every worker stop Ray once the head has. Runs on the head."""
    ray.init("auto", logging_level=logging.ERROR, log_to_driver=False)
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    others = [node.id for node in nodes() if node.id != this_node()]
    told = [
        _wait_and_stop.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(id, soft=False)
        ).remote(host, port)
        for id in others
    ]
    ready, _ = ray.wait(told, num_returns=len(told), timeout=WAIT_S) if told else ([], [])
    for ref in ready:
        try:
            ray.get(ref)
        except RayError as error:  # lost just now
            print(f"a worker is not stopped ({type(error).__name__})", file=sys.stderr)
    print(f"Ray ends on {len(ready)} of {len(others)} workers when it has ended on the head")


@ray.remote(num_cpus=0)
def _wait_and_stop(host: str, port: str) -> None:
    # No child of this process, whose children Ray ends with it.
    shell = ["sh", "-c", 'setsid "$@" > /dev/null 2>&1 &', "sh"]
    subprocess.run([*shell, sys.executable, "-c", _STOP, host, port], check=True)
