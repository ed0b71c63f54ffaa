"""Compare the memory of all processes of an experiment with the size of its data.

    python benchmarks/memory.py [FILE] [key=value ...] [--actors 1 2 4] [--trials N]

Runs the experiment (default: 1 GB of synthetic images, a linear model) with 1, 2 and 4 client
actors, each time in a fresh process with its own local Ray, and once more with few samples of the
same shape, which shows how much memory the processes need without the data. Memory is the
proportional set size (PSS: a page shared by several processes is counted once) summed over the
process tree, object store included. It is read once a second; `while training` is the median of the
second half of these readings. With --trials it is a sweep of N trials at the same time, each with
so many client actors. Linux only; needs psutil.
"""

import argparse
import json
import statistics
import tempfile
import threading
from pathlib import Path

from apart import apart

SMALL = {
    "model.name": "linear",
    "algorithm.name": "fedavg",
    "local.epochs": 1,
    "local.lr": 0.01,
    "data.clients": 100,
    "data.partition.kind": "iid",
    "federation.cohort": 8,
    "federation.rounds": 12,
    "federation.eval_every": 4,
    "compute.cpus_per_actor": 0.25,
    "tracking.uri": None,
}
SYNTHETIC = {
    "data.dataset": "synthetic",
    "data.options": {"shape": [3, 32, 32], "train": 340_000, "test": 2_000},
}
PARTS = ("Pss_Anon", "Pss_Shmem", "Pss_File")


def tree_memory() -> list[int]:
    """PSS in bytes of this process and all its descendants, one number for each of PARTS."""
    import psutil

    total = [0, 0, 0]
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # the process has just ended
            continue
        sizes = {
            line.split(":")[0]: int(line.split()[1]) * 1024
            for line in lines
            if line.startswith("Pss")
        }
        total = [have + sizes.get(part, 0) for have, part in zip(total, PARTS)]
    return total


def run_sweep(file: str | None, overrides: dict, trials: int):
    """Run a sweep of so many trials at once; returns a function that loads its data."""
    from fedsmu_ray import load_config
    from fedsmu_ray.federation.problem import Problem
    from fedsmu_ray.sweeps.sweep import sweep

    rates = [overrides["local.lr"] / (1 + i) for i in range(trials)]
    with tempfile.TemporaryDirectory() as folder:
        more = {
            "tune.space": {"local.lr": {"grid": rates}},
            "tune.concurrent": trials,
            "tune.storage": folder,
        }
        config = load_config(file, {**overrides, **more})
        sweep(config)
    return lambda: Problem.of(config).dataset


def measure(file: str | None, overrides: dict, trials: int) -> None:
    """Run one experiment, or a sweep, and print its memory as JSON."""
    from fedsmu_ray import load_config, run

    samples, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            samples.append(tree_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    if trials:
        load = run_sweep(file, overrides, trials)
    else:
        result = run(load_config(file, overrides))
    done.set()
    watcher.join()
    dataset = load() if trials else result.problem.dataset
    nbytes = sum(
        a.nbytes for a in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y)
    )
    later = samples[len(samples) // 2 :]
    print(
        json.dumps(
            {
                "nbytes": nbytes,
                "shape": dataset.shape,
                "classes": dataset.classes,
                "samples": len(samples),
                "training": [statistics.median(s[i] for s in later) for i in range(3)],
                "peak": max(map(sum, samples)),
            }
        ),
        flush=True,
    )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("arguments", nargs="*", metavar="[FILE] key=value")
    p.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    p.add_argument("--trials", type=int, default=0, help="a sweep of so many trials at once")
    p.add_argument("--measure", help=argparse.SUPPRESS)
    options = p.parse_intermixed_args()
    if options.measure:
        return measure(*json.loads(options.measure))
    from fedsmu_ray import cli
    from fedsmu_ray.config.yaml_files import parse_overrides

    file, given = cli.split(options.arguments)
    settings = {**SMALL, **({} if file else SYNTHETIC), **parse_overrides(given)}
    print(
        "actors   data GB | while training, GB more than without data: own  shared  mapped files   "
        "all  x data | peak x data"
    )
    for actors in options.actors:
        settings["compute.actors"] = actors
        full = apart(__file__, file, settings, options.trials)
        few = {"shape": full["shape"], "classes": full["classes"], "train": 20_000, "test": 100}
        bare = apart(
            __file__,
            None,
            {**settings, "data.dataset": "synthetic", "data.options": few, "data.augment": False},
            options.trials,
        )
        size = full["nbytes"] - bare["nbytes"]
        own, shared, mapped = (a - b for a, b in zip(full["training"], bare["training"]))
        print(
            f"{actors:6}   {size / 1e9:7.2f} | {own / 1e9:47.2f} {shared / 1e9:7.2f} "
            f"{mapped / 1e9:13.2f} {(own + shared + mapped) / 1e9:5.2f} "
            f"{(own + shared + mapped) / size:7.2f} | "
            f"{(full['peak'] - bare['peak']) / size:11.2f}   (without data: "
            f"{sum(bare['training']) / 1e9:.2f} GB; {full['samples']} readings)",
            flush=True,
        )


if __name__ == "__main__":
    main()
