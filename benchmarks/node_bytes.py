"""Bytes that three hosts receive in a round, measured on their interfaces, and the least possible.

    python benchmarks/node_bytes.py [key=value ...]

The hosts are namespaces of this machine (tests/cluster/hosts.sh): Linux, root. Each has a Ray node
with one CPU and one client actor; the driver is on the first. The least: the broadcast once for
each other node, and the uploads of the clients that are trained there.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.hosts import Hosts, missing

FIRST, LAST = 6, 26  # rounds between which bytes are counted
NAMES = ("h1", "h2", "h3")
SHELL = "export PATH=~/fedsmu_env/bin:$PATH PYTHONPATH=~/fedsmu_ray; cd fedsmu_ray;"
PLAIN = {
    "data.dataset": "synthetic",
    "data.options": {"shape": [3, 32, 32], "train": 2880, "test": 100},
    "data.partition.kind": "iid",
    "model.name": "lenet",
    "local.epochs": 1,
    "local.batch_size": 20,
    "federation.rounds": LAST,
    "federation.eval_every": LAST,
    "compute.clients_per_task": 1,
    "compute.cpus_per_actor": 1,
    "compute.actors": len(NAMES),
    "tracking.uri": None,
}
ROWS = [
    {"algorithm.name": "fedsmu", "data.clients": 12, "federation.cohort": 12},
    {"algorithm.name": "fedsmu", "data.clients": 48, "federation.cohort": 12},
    {"algorithm.name": "fedsmu", "algorithm.beta1": 0, "data.clients": 48, "federation.cohort": 12},
    {"algorithm.name": "scaffold", "data.clients": 12, "federation.cohort": 12},
    {"algorithm.name": "fedavg", "data.clients": 48, "federation.cohort": 12},
]
# Runs on the first host; waits for a line before and after the rounds that count.
DRIVER = """
import json, sys, time
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.executors.ray_backend import RayBackend
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress
from fedsmu_ray.federation.rounds import rounds
config, first, last = load_config(None, json.loads(sys.argv[1])), *map(int, sys.argv[2:])
problem = Problem.of(config)
with RayBackend().open(problem, "auto") as (executor, where):
    for record in rounds(executor.problem, executor, Progress()):
        if record.round in (first, last):
            facts = {
                "at": time.perf_counter(),
                "trained": dict(executor.trained_on),
                "uplink": record.uplink_bytes,
                "downlink": record.downlink_bytes,
                "sha256": executor.sha256(),
            }
            print("@" + json.dumps(facts), flush=True)
            input()
"""


def received(hosts: Hosts) -> int:
    """Bytes that the hosts have received so far."""
    lines = (hosts.on(name, "grep eth0 /proc/net/dev") for name in NAMES)
    return sum(int(line.split(":")[1].split()[0]) for line in lines)


def measure(hosts: Hosts, row: dict) -> dict:
    """Bytes a round, received and least, and seconds a round."""
    shell = hosts.start(
        "h1",
        f"{SHELL} python -c '{DRIVER}' '{json.dumps({**PLAIN, **row})}' {FIRST} {LAST}",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    marks = []
    for line in shell.stdout:
        if line.startswith("@"):
            marks.append((json.loads(line[1:]), received(hosts)))
            shell.stdin.write("\n")
            shell.stdin.flush()
    assert shell.wait() == 0 and len(marks) == 2
    (before, start), (after, end) = marks
    count = LAST - FIRST

    def each(key: str) -> float:
        return (after[key] - before[key]) / count

    def trained(name: str) -> int:
        return after["trained"].get(name, 0) - before["trained"].get(name, 0)

    cohort = row["federation.cohort"]
    away = sum(map(trained, NAMES[1:])) / count
    least = each("downlink") / cohort * (len(NAMES) - 1) + each("uplink") / cohort * away
    return {
        "row": " ".join(f"{key.split('.')[1]}={value}" for key, value in row.items()),
        "received": (end - start) / count,
        "least": least,
        "trained": [trained(name) / count for name in NAMES],
        "seconds": each("at"),
        "sha256": after["sha256"][:8],
    }


def main() -> None:
    if lacking := missing():
        sys.exit(f"hosts of our own need {lacking}")
    more = dict(text.split("=", 1) for text in sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="fedsmu-hosts-") as folder:
        hosts = Hosts(Path(folder), NAMES)
        try:
            for name in NAMES:
                hosts.copy_checkout(name)
                where = "--head --port=6379" if name == "h1" else "--address=10.77.0.1:6379"
                hosts.on(name, f"{SHELL} ray start {where} --num-cpus=1 --disable-usage-stats")
            print("received  least   ratio  s/round  trained by node      workload")
            for row in ROWS:
                it = measure(hosts, {**row, **more})
                print(
                    f"{it['received'] / 1e6:7.2f} {it['least'] / 1e6:6.2f} "
                    f"{it['received'] / it['least']:7.2f} {it['seconds']:8.2f}  "
                    f"{it['trained']}  {it['row']} {it['sha256']}",
                    flush=True,
                )
        finally:
            hosts.close()


if __name__ == "__main__":
    main()
