"""Time rounds of LeNet and ResNet18-GN on one GPU and compare them with a lower bound.

    python benchmarks/gpu.py [--rounds 20] [--model lenet resnet18_gn]

LeNet is trained as in the FedSMU paper (10 of 100 clients, 5 epochs, augmentation), ResNet18-GN on
64x64 images; all images are synthetic. Server and client worker run in this process, without Ray.
For every precision and number of clients trained at once, prints the median time of a round
(training, messages, server step; encoding the messages synchronizes the GPU) with minimum and
maximum, the time of an evaluation, an estimate for 6,000 rounds with 600 evaluations, and a lower
bound ("floor"): the floating-point operations of a round at the rate that a large matrix product
reaches on this device in the same precision. `--device cpu --samples 20` is a quick check that the
benchmark runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedsmu_ray.config.validation import parse
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.cohort import sample_cohort
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server

MODELS = {
    "lenet": {
        "shape": [3, 32, 32],
        "classes": 10,
        "cohort": 10,
        "epochs": 5,
        "at_once": [1, 5, 10],
    },
    "resnet18_gn": {
        "shape": [3, 64, 64],
        "classes": 200,
        "cohort": 3,
        "epochs": 5,
        "at_once": [1, 3],
    },
}


def problem_of(name: str, samples: int, precision: str, at_once: int, gpu: bool) -> Problem:
    given = MODELS[name]
    clients = 100 if name == "lenet" else 10
    return Problem.of(
        parse(
            {
                "data": {
                    "dataset": "synthetic",
                    "clients": clients,
                    "partition": {"kind": "iid"},
                    "augment": True,
                    "options": {
                        "shape": given["shape"],
                        "classes": given["classes"],
                        "train": clients * samples,
                        "test": 20 * samples,
                    },
                },
                "model": {"name": name},
                "algorithm": {"name": "fedsmu"},
                "local": {"epochs": given["epochs"], "batch_size": 50, "lr": 0.01},
                "federation": {"cohort": given["cohort"]},
                "compute": {
                    "gpus_per_actor": 1.0 if gpu else 0.0,
                    "precision": precision,
                    "clients_per_task": at_once,
                },
            }
        )
    )


class Federation:
    """Runs the rounds of a problem and keeps the client states."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.server, self.worker = problem, Server(problem), ClientWorker(problem)
        self.states: dict[int, dict] = {}

    def round(self, t: int) -> float:
        """Run round t; returns its seconds."""
        began = time.perf_counter()
        config = self.problem.config
        cohort, size = (
            sample_cohort(config.seed, t, config.data.clients, config.federation.cohort),
            self.problem.group_size,
        )
        sent = self.server.open_round(t, False)
        for i in range(0, len(cohort), size):
            group = cohort[i : i + size]
            messages, _, shards = self.worker.train(
                t, group, sent, [self.states.get(c) for c in group]
            )
            self.server.receive(i, group, messages)
            per_shard = self.problem.shard_clients
            self.states.update(
                {
                    client: {name: a[k % per_shard] for name, a in shards[k // per_shard].items()}
                    for k, client in enumerate(group)
                }
            )
        self.server.step()
        return time.perf_counter() - began

    def evaluation(self, t: int) -> float:
        sent, began = self.server.open_round(t, False), time.perf_counter()
        self.worker.evaluate(t, sent, 0, len(self.problem.dataset.test_y))
        return time.perf_counter() - began


def multiplications(problem: Problem) -> float:
    """Count the floating-point operations of a round's local training.

    These are the forward and backward passes of every sample.
    """
    config = problem.config
    module, inputs = problem.module(), problem.sample
    with FlopCounterMode(display=False) as counter:
        module(inputs).sum().backward()
    samples = len(problem.dataset.train_y) // config.data.clients
    return (
        counter.get_total_flops()
        / len(inputs)
        * samples
        * config.local.epochs
        * config.federation.cohort
    )


def rate(device: str, precision: str) -> float:
    """Measure the floating-point operations per second of a large square matrix product.

    Uses the precision settings of PyTorch that the client worker created last has made.
    """
    size = 8192 if device == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    p.add_argument("--samples", type=int, default=500, help="samples per client")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = p.parse_args()
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    print(torch.cuda.get_device_name() if gpu else "CPU", "torch", torch.__version__)
    print(
        f"{'model':<12} {'precision':<9} {'at once':>7} {'ms a round':>10} {'min':>8} {'max':>8} "
        f"{'floor ms':>8} {'ms to evaluate':>14} {'6000 rounds, s':>14} {'GB':>5}"
    )
    for name in options.model:
        for precision in ("float32", "tf32", "bfloat16") if gpu else ("float32", "bfloat16"):
            floor = None
            for at_once in MODELS[name]["at_once"]:
                problem = problem_of(name, options.samples, precision, at_once, gpu)
                if gpu:
                    torch.cuda.reset_peak_memory_stats()
                # Before the first matrix product: this sets the workspace that cuBLAS uses.
                federation = Federation(problem)
                floor = floor or multiplications(problem) / rate(options.device, precision)
                seconds = [federation.round(t) for t in range(1, options.rounds + 4)][3:]
                scored = [federation.evaluation(options.rounds + 4) for _ in range(3)]
                middle, score = statistics.median(seconds), statistics.median(scored)
                used = torch.cuda.max_memory_allocated() / 1e9 if gpu else 0.0
                print(
                    f"{name:<12} {precision:<9} {at_once:7} {1e3 * middle:10.1f} "
                    f"{1e3 * min(seconds):8.1f} {1e3 * max(seconds):8.1f} {1e3 * floor:8.2f} "
                    f"{1e3 * score:14.1f} {6000 * middle + 600 * score:14.0f} {used:5.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
