"""Measure round time and memory as the number of clients m grows, at a fixed cohort size.

    python benchmarks/scale.py clients|spill [--m M ...]

clients: 1,000 tiny clients per round (a linear model of 650 parameters, 20 samples each, one epoch
of batches of 10) out of m = 1,000, 10,000 and 100,000; FedAvg and FedSMU (whose clients keep their
momentum), inline and over 2 client actors.

spill: 100 LeNet clients per round (a momentum of 3.2 MB and one sample each) out of m = 200, 700
and 2,000, with an object store of 1.5 GB, so that Ray has to spill most momenta to disk.

Each case runs in a fresh process. `driver MB` is the memory of the process that runs the rounds,
without shared memory, after three rounds and after the last; inline, the clients run in that
process too. `stored x states` is the size of all stored shards of states, relative to that of the
clients' latest states, after the last round; clients: --rounds 200 or more, until it has settled.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from apart import apart

COMMON = {
    "data.dataset": "synthetic",
    "data.partition.kind": "iid",
    "algorithm.profile": "paper",
    "local.epochs": 1,
    "local.batch_size": 10,
    "local.lr": 0.05,
    "federation.eval_every": 10_000,
    "tracking.uri": None,
    "compute.actors": 2,
}
LINEAR = {"model.name": "linear", "federation.cohort": 1000, "federation.rounds": 30}
LENET = {
    "model.name": "lenet",
    "federation.cohort": 100,
    "compute.executor": "ray",
    "algorithm.name": "fedsmu",
}
STORE_BYTES = 1_500_000_000
COLUMNS = (
    ("m", 8),
    ("executor", 9),
    ("method", 8),
    ("data + split s", 15),
    ("rounds", 7),
    ("first half s", 13),
    ("second half s", 14),
    ("driver MB", 17),
    ("clients with state", 19),
    ("stored x states", 16),
    ("spilled GB", 11),
)


def cases(which: str) -> list[dict]:
    if which == "clients":
        return [
            {
                **COMMON,
                **LINEAR,
                "data.clients": m,
                "compute.executor": executor,
                "algorithm.name": method,
                "data.options": {"shape": [64], "train": 20 * m, "test": 100},
            }
            for m in (1_000, 10_000, 100_000)
            for executor in ("inline", "ray")
            for method in ("fedavg", "fedsmu")
        ]
    return [
        {
            **COMMON,
            **LENET,
            "data.clients": m,
            "federation.rounds": rounds,
            "data.options": {"shape": [3, 32, 32], "train": m, "test": 10},
        }
        for m, rounds in ((200, 8), (700, 14), (2_000, 28))
    ]


def own_megabytes() -> float:
    """Resident memory of this process without shared memory."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[key].split()[0]) for key in ("RssAnon", "RssFile")) / 1e3


def spilling(folder: str):
    """Start a local Ray with a small object store that spills into `folder`."""
    import ray

    return ray.init(
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=STORE_BYTES,
        object_spilling_directory=folder,
    )


def stored_bytes(progress, executor: str) -> int:
    """Size of the stored shards that hold a client's latest state."""
    shards = list({ref.shard for ref in progress.states.latest.values()})
    if executor == "ray":
        from ray.experimental import get_object_locations

        return sum(found["object_size"] for found in get_object_locations(shards).values())
    arrays = [a if a.base is None else a.base for s in shards for a in s.arrays.values()]
    return sum(a.nbytes for a in {id(a): a for a in arrays}.values())


def measure(settings: dict, folder: str | None) -> None:
    """Run one case and print its measurements as JSON."""
    from fedsmu_ray import load_config
    from fedsmu_ray.executors.registry import backend
    from fedsmu_ray.federation.problem import Problem
    from fedsmu_ray.federation.records import Progress
    from fedsmu_ray.federation.rounds import rounds

    config = load_config(os.devnull, settings)
    began = time.perf_counter()
    problem = Problem.of(config)
    prepared = time.perf_counter() - began
    seconds, progress = [], Progress()
    opened = backend(config.compute.executor).open(problem, None)
    with spilling(folder) if folder else nullcontext(), opened as (running, _):
        problem, early = running.problem, 0.0
        for record in rounds(problem, running, progress):
            if record.test_accuracy is None or record.round < config.federation.rounds:
                seconds.append(record.seconds)
            if record.round == 3:
                early = own_megabytes()
        on_disk = (
            sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()) if folder else 0
        )
        late, half = own_megabytes(), len(seconds) // 2
        stored = stored_bytes(progress, config.compute.executor)
        state = problem.method.client_init(problem.initial())
        used = sum(t.nbytes for t in state.values()) * len(progress.states.latest)
    print(
        json.dumps(
            {
                "m": config.data.clients,
                "executor": config.compute.executor,
                "method": config.method_name,
                "data + split s": round(prepared, 1),
                "rounds": config.federation.rounds,
                "first half s": f"{statistics.median(seconds[1:half]):.3f}",
                "second half s": f"{statistics.median(seconds[half:]):.3f}",
                "driver MB": f"{early:.0f} -> {late:.0f}",
                "clients with state": len(progress.states.latest),
                "stored x states": stored / used if used else 0.0,
                "spilled GB": on_disk / 1e9,
            }
        ),
        flush=True,
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("which", choices=["clients", "spill"], nargs="?", default="clients")
    p.add_argument("--m", type=int, nargs="+", help="only these numbers of clients")
    p.add_argument("--rounds", type=int, help="instead of 30 (clients)")
    p.add_argument("--measure", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.measure:
        return measure(*json.loads(options.measure))
    print("".join(f"{name:>{width}}" for name, width in COLUMNS))
    for settings in cases(options.which):
        if options.m and settings["data.clients"] not in options.m:
            continue
        if options.rounds and options.which == "clients":
            settings["federation.rounds"] = options.rounds
        with (
            tempfile.TemporaryDirectory(prefix="fedsmu-spill-")
            if options.which == "spill"
            else nullcontext() as folder
        ):
            row = apart(__file__, settings, folder)
        print(
            "".join(
                f"{row[name]:>{width}.4}"
                if isinstance(row[name], float)
                else f"{row[name]:>{width}}"
                for name, width in COLUMNS
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
