"""Repeat an experiment under random kills: results must not change, memory must not grow.

    python benchmarks/soak.py [--minutes 10] [--seed 0] [--server actor|process]

Runs one experiment again and again with the same executor while processes are killed and objects
lost at random: mostly client actors, sometimes the server actor or the state of a client. The
server is an actor, as for large models, or in this process, as for small ones. Prints one line per
experiment, with the resident memory of the driver and of the server actor and the shared memory in
use, and at the end the processes and files that are left over. The exit code is 1 if a model hash
differs from that of the undisturbed run or anything is left over.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import ray

from fedsmu_ray.config.validation import parse
from fedsmu_ray.executors import ray_executor
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.executors.ray_cluster import cluster
from fedsmu_ray.experiment.resume import resumable
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress

PLAIN = {
    "data": {"clients": 50},
    "model": {"hidden": [200, 200]},
    "algorithm": {"name": "fedsmu"},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 100, "cohort": 10, "eval_every": 5},
    "checkpoint": {"every": 5},
    "compute": {"clients_per_task": 2, "cpus_per_actor": 0.5},
}


class Chaos(threading.Thread):
    """Kills an actor or loses a client state every few seconds, until `over` is set."""

    def __init__(self, executor: ray_executor.RayExecutor, seed: int) -> None:
        super().__init__(daemon=True)
        self.executor, self.draw, self.over = executor, random.Random(seed), threading.Event()
        self.progress = Progress()
        self.counts = {"client actors": 0, "server actors": 0, "client states": 0}

    def run(self) -> None:
        while not self.over.wait(self.draw.uniform(2, 8)):
            what = self.draw.choices(list(self.counts), [8, 1, 1])[0]
            if what == "client states":
                self.lose_a_state()
                continue
            found = workers("ray::ClientActor" if what == "client actors" else "ray::ServerActor")
            if found:
                self.draw.choice(found).kill()
                self.counts[what] += 1

    def lose_a_state(self) -> None:
        """Lose the state of a client.

        An object is lost with the process that owns it: a helper actor becomes the owner of the
        state and is then killed.
        """
        client, at = self.draw.choice(list(self.progress.states.latest.items()) or [(None, None)])
        if at is None:
            return
        owner = ray.remote(Owner).options(num_cpus=0).remote()
        try:
            (moved,) = ray.get(owner.put.remote(ray.get(at.shard)))
        except ray.exceptions.RayError:
            return  # the state was already lost
        finally:
            ray.kill(owner)
        if self.progress.states.latest.get(client) is at:  # no round has replaced it meanwhile
            self.progress.states.update({client: replace(at, shard=moved)})
            self.counts["client states"] += 1


class Owner:
    def put(self, arrays: dict) -> list:
        return [ray.put(arrays)]


def workers(title: str) -> list[psutil.Process]:
    """Descendants of this process whose title starts with `title`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process)
        except psutil.Error:
            continue
    return found


def megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def store_bytes() -> int:
    """Shared memory in use on this machine, where Ray keeps objects.

    Pages stay allocated once they have been touched, so this is the maximum so far.
    """
    shm = os.statvfs("/dev/shm")
    return (shm.f_blocks - shm.f_bfree) * shm.f_frsize


def undisturbed(problem: Problem) -> str:
    executor = InlineExecutor()
    try:
        executor.load(problem)
        list(resumable(problem, executor, Progress(), None))
        return executor.sha256()
    finally:
        executor.close()


def soak(minutes: float, seed: int) -> bool:
    problem = Problem.of(parse(PLAIN))
    expected, good, rounds = undisturbed(problem), True, 0
    print(
        f"undisturbed: {expected[:16]}; {PLAIN['federation']['rounds']} rounds an experiment, "
        f"{minutes:g} minutes"
    )
    with cluster(), tempfile.TemporaryDirectory(prefix="fedsmu-soak-") as folder:
        executor = ray_executor.RayExecutor(problem.config.compute, 3)
        chaos = Chaos(executor, seed)
        executor.load(problem)
        chaos.start()
        began, run = time.monotonic(), 0
        while time.monotonic() - began < 60 * minutes:
            run += 1
            if run > 1:
                executor.recover()  # the server may have been killed between two experiments
            chaos.progress = Progress()
            for _ in resumable(problem, executor, chaos.progress, Path(folder) / str(run)):
                rounds += 1
            sha256 = executor.sha256()
            good &= sha256 == expected
            server = workers("ray::ServerActor")
            killed = ", ".join(f"{n} {what}" for what, n in chaos.counts.items())
            bits = "same bits" if sha256 == expected else f"OTHER BITS {sha256}"
            print(
                f"{time.monotonic() - began:6.0f} s  experiment {run:2d}: {bits}  "
                f"driver {megabytes(psutil.Process()):.0f} MB  server "
                f"{megabytes(server[0]) if server else 0:.0f} MB  "
                f"store {store_bytes() / 1e6:.1f} MB  killed so far: {killed}",
                flush=True,
            )
        chaos.over.set()
        chaos.join()
        executor.close()
        del chaos
    print(f"{rounds} rounds in {run} experiments")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", choices=["actor", "process"], default="actor")
    arguments = parser.parse_args()
    if arguments.server == "actor":
        ray_executor.IN_PROCESS_DIM = 0
    logging.basicConfig(
        level=logging.ERROR
    )  # all warnings are about losses, which are expected here
    before = set(Path(tempfile.gettempdir()).iterdir())
    good = soak(arguments.minutes, arguments.seed)
    time.sleep(5)
    left = [p.name for p in psutil.Process().children(recursive=True)]
    files = [
        str(p)
        for p in set(Path(tempfile.gettempdir()).iterdir()) - before
        if p.name.startswith("fedsmu")
    ]
    print(f"left over: {len(left)} processes {left or ''}, {len(files)} files {files or ''}")
    return 0 if good and not left and not files else 1


if __name__ == "__main__":
    sys.exit(main())
