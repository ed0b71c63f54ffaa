"""The first ten minutes on a GPU: what runs, where it waits, how fast it is.

    python benchmarks/gpu.py [BLOCK ...] [--out gpu.jsonl] [--limit 180] [--device cuda]

Blocks (default: all, in this order):

    models   a step of every model in every precision, of one client and of three together
    waits    the lines at which rounds make the host wait for the GPU
    bits     whether rounds repeat their bits, in this process and in another, in groups of 10, 5
             and 1, and how far they are from those on the CPU
    rounds   milliseconds a round of LeNet as in the FedSMU paper (10 of 100 clients, 5 epochs,
             augmentation) by precision and group size, its memory, and a lower bound: its
             floating-point operations at the rate of a large matrix product
    graphs   such rounds with steps as CUDA graphs and without, in groups of 10 and 1: milliseconds
             and bits
    states   the same with client states kept on the card and without, all clients in every round
    resnet   milliseconds a round for three clients of ResNet18-GN on images of 64 pixels
    spans    where the time of a round of LeNet goes
    kernels  the twenty longest operations of such a round
    convs    forms of the convolution of ten clients, each with weights of its own
    copies   copies from and to pageable and pinned memory, and signs that are packed first
    ray      one client actor with the card, and four with a quarter each

Every block is a process of its own, ended after LIMIT seconds, so that an error loses nothing of
the others. Every row is printed and appended to OUT at once. `--device cpu` takes few samples and
leaves out what needs a GPU: it checks that the blocks run, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.display.profile import Profile
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.federation import graphs
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.numerics import gpu
from fedsmu_ray.wire.packing import pack_positive

Row = dict[str, Any]
LENET = {"name": "lenet"}
RESNET = {"name": "resnet18_gn"}
MODELS = (
    {"name": "linear"},
    {"name": "mlp"},
    LENET,
    {"name": "char_lstm"},
    {"name": "resnet18_gn", "stem": "cifar"},
    {"name": "vit_s"},
)


class Machine:
    """Problems and timings on a device, "cuda" or "cpu"."""

    def __init__(self, device: str) -> None:
        self.device, self.gpu = device, device == "cuda"
        self.precisions = ("float32", "tf32", "bfloat16") if self.gpu else ("float32", "bfloat16")

    def problem(self, model: Row, samples: int = 500, side: int = 32, **sections: Row) -> Problem:
        """FedSMU on synthetic images, or text; samples: of a client; sections: what differs."""
        is_text = model["name"] == "char_lstm"
        samples = samples if self.gpu else 20
        config: Row = {
            "data": {
                "dataset": "synthetic",
                "clients": 100,
                "partition": {"kind": "iid"},
                "augment": not is_text,
            },
            "model": model,
            "algorithm": {"name": "fedsmu"},
            "local": {"epochs": 5, "batch_size": 50, "lr": 0.01},
            "federation": {"cohort": 10, "rounds": 5, "eval_every": 1000},
            "compute": {"executor": "inline", "gpus_per_actor": float(self.gpu)},
        }
        for name, changes in sections.items():
            config[name] = {**config[name], **changes}
        train = config["data"]["clients"] * samples
        if is_text:
            return Problem.of(parse(config), text(train))
        test = 2000 if self.gpu else 20
        config["data"]["options"] = {"shape": [3, side, side], "train": train, "test": test}
        return Problem.of(parse(config))

    def seconds(self, step: Callable[[], object], times: int = 10) -> float:
        """Median seconds of a step and of what it starts on the GPU."""
        taken = []
        for _ in range(times + 2):
            began = time.perf_counter()
            step()
            if self.gpu:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[2:])


def text(samples: int) -> Dataset:
    generator = np.random.default_rng(0)
    x, y = (
        generator.integers(80, size=(samples + 20, 80)),
        generator.integers(80, size=samples + 20),
    )
    return Dataset("text", x[20:], y[20:], x[:20], y[:20], 80, symbols=80)


def run(problem: Problem, executor: Any = None) -> tuple[Any, list[float]]:
    """Run all rounds; returns the executor (default: in this process) and seconds of each round.

    The last round includes an evaluation.
    """
    if executor is None:
        executor = InlineExecutor()
        executor.load(problem)
    taken, began = [], time.perf_counter()
    for _ in rounds(problem, executor):
        taken.append(time.perf_counter() - began)
        began = time.perf_counter()
    return executor, taken


def described(error: Exception) -> Row:
    return {"error": f"{type(error).__name__}: {error}"[:300]}


def models(machine: Machine) -> Iterator[Row]:
    for model in MODELS if machine.gpu else MODELS[:4]:
        for precision in machine.precisions:
            for together in (1, 3):
                row = {**model, "precision": precision, "clients": together}
                compute = {"precision": precision, "clients_per_task": together}
                try:
                    executor, taken = run(
                        machine.problem(
                            model,
                            samples=50,
                            data={"clients": 12},
                            local={"epochs": 1},
                            federation={"cohort": together, "rounds": 4},
                            compute=compute,
                        )
                    )
                    batched = executor.worker.trainer.batched is not None
                    yield {**row, "batched": batched, "ms a round of one step": 1e3 * taken[2]}
                except Exception as error:
                    yield {**row, **described(error)}


def waits(machine: Machine) -> Iterator[Row]:
    problem = machine.problem(LENET, federation={"rounds": 2}, compute={"clients_per_task": 10})
    executor = InlineExecutor()
    executor.load(problem)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if machine.gpu:
            torch.cuda.set_sync_debug_mode("warn")
        run(problem, executor)
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in seen)
    yield {"all waits in 2 rounds and an evaluation": places.total()}
    for place, count in places.most_common():
        yield {"line": place, "waits": count}


def two_rounds(machine: Machine, together: int, **compute: Any) -> Any:
    local, federation = {"epochs": 1}, {"rounds": 2}
    compute = {"clients_per_task": together, **compute}
    problem = machine.problem(LENET, 100, local=local, federation=federation, compute=compute)
    return run(problem)[0]


def digest(machine: Machine) -> Iterator[Row]:
    """What `bits` runs in another process."""
    yield {"sha256": two_rounds(machine, 10).sha256()}


def bits(machine: Machine) -> Iterator[Row]:
    reference = two_rounds(machine, 10, gpus_per_actor=0.0).params()
    for label, together in (("10", 10), ("10, again", 10), ("5", 5), ("1", 1)):
        executor = two_rounds(machine, together)
        distance = float(abs(executor.params() - reference).max())
        yield {"groups": label, "sha256": executor.sha256(), "distance to the CPU": distance}
    command = [sys.executable, __file__, "--only", "digest", "--device", machine.device]
    done = subprocess.run(command, capture_output=True, text=True)
    yield {"groups": "10, another process", "said": (done.stdout or done.stderr)[-300:]}


def operations(problem: Problem) -> float:
    """Floating-point operations of a round's local training, forward and backward."""
    config, module, inputs = problem.config, problem.module(), problem.sample
    with FlopCounterMode(display=False) as counter:
        module(inputs).sum().backward()
    samples = len(problem.dataset.train_y) // config.data.clients * config.local.epochs
    return counter.get_total_flops() / len(inputs) * samples * config.federation.cohort


def rate(machine: Machine, precision: str) -> float:
    """Floating-point operations per second of a large product, with the settings of the worker."""
    size = 8192 if machine.gpu else 512
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=machine.device, dtype=dtype)
    return 2 * size**3 / machine.seconds(lambda: a @ a)


def timed(
    machine: Machine, model: Row, sizes: tuple[int | None, ...], **changes: Any
) -> Iterator[Row]:
    for precision in machine.precisions:
        for together in sizes:
            row: Row = {**model, "precision": precision, "groups": together or "default"}
            compute = {"precision": precision, "clients_per_task": together}
            try:
                problem = machine.problem(model, **{**changes, "compute": compute})
                if machine.gpu:
                    torch.cuda.reset_peak_memory_stats()
                _, taken = run(problem)
                row["ms a round"] = 1e3 * statistics.median(taken[1:-1])
                row["ms a round, lower bound"] = (
                    1e3 * operations(problem) / rate(machine, precision)
                )
                if machine.gpu:
                    row["GB"] = torch.cuda.max_memory_allocated() / 1e9
            except Exception as error:
                row |= described(error)
            yield row


def lenet_rounds(machine: Machine) -> Iterator[Row]:
    federation = {"rounds": 12 if machine.gpu else 3}
    yield from timed(machine, LENET, (None, 1, 5, 10), federation=federation)


def compared(
    machine: Machine, owner: Any, name: str, off: Any, together: int, **sections: Row
) -> Iterator[Row]:
    """Rounds of LeNet with something of the package, and with `off` in its place."""
    for precision in machine.precisions:
        for is_on in (True, False):
            compute = {"precision": precision, "clients_per_task": together}
            federation = {"rounds": 8 if machine.gpu else 3}
            problem = machine.problem(LENET, federation=federation, compute=compute, **sections)
            with nullcontext() if is_on else patch.object(owner, name, off):
                executor, taken = run(problem)
            row: Row = {"precision": precision, "groups": together, "on": is_on}
            row["ms a round"] = 1e3 * statistics.median(taken[1:-1])
            captured = executor.worker.trainer.graphs
            row["captures"] = captured.captures if captured else 0
            yield {**row, "sha256": executor.sha256()}


def step_graphs(machine: Machine) -> Iterator[Row]:
    for together in (10, 1):
        yield from compared(machine, graphs, "EAGER_STEPS", 1 << 40, together)


def states(machine: Machine) -> Iterator[Row]:
    yield from compared(machine, gpu, "memory_to_keep", lambda share: 0, 10, data={"clients": 10})


def resnet_rounds(machine: Machine) -> Iterator[Row]:
    if machine.gpu:
        sections = {"federation": {"cohort": 3, "rounds": 4}, "data": {"clients": 10}}
        yield from timed(machine, RESNET, (1, 3), side=64, **sections)


def spans(machine: Machine) -> Iterator[Row]:
    problem = replace(machine.problem(LENET, compute={"clients_per_task": 10}), profiled=True)
    executor, taken = run(problem)
    yield {"ms a round": 1e3 * statistics.median(taken[1:-1])}
    for phase in Profile(executor.spans.spans).phases():
        yield {"phase": phase.name, "ms a round": 1e3 * statistics.median(phase.seconds)}


def kernels(machine: Machine) -> Iterator[Row]:
    problem = machine.problem(LENET, federation={"rounds": 2}, compute={"clients_per_task": 10})
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * machine.gpu]
    with profile(activities=activities) as profiler:
        run(problem)
    key = "self_device_time_total" if machine.gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    for event in events[:20]:
        yield {"operation": event.key[:80], "calls": event.count, "ms": getattr(event, key) / 1e3}


def grouped(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x [C, B, I, H, W], w [C, O, I, 5, 5]; as vmap does it."""
    y = F.conv2d(x.transpose(0, 1).flatten(1, 2), w.flatten(0, 1), groups=len(w))
    return y.unflatten(1, (len(w), -1)).transpose(0, 1)


def grouped_channels_last(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    inputs = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    weights = w.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(inputs, weights, groups=len(w)).unflatten(1, (len(w), -1)).transpose(0, 1)


def one_by_one(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.stack([F.conv2d(each, weights) for each, weights in zip(x, w)])


def unfolded(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    clients, batch, _, height, width = x.shape
    columns = F.unfold(x.flatten(0, 1), 5).unflatten(0, (clients, batch))  # [C, B, I 25, H' W']
    y = w.flatten(2)[:, None] @ columns
    return y.unflatten(-1, (height - 4, width - 4))


def convs(machine: Machine) -> Iterator[Row]:
    batch = 50 if machine.gpu else 2
    for n_in, side in ((3, 32), (64, 14)):
        x = torch.randn(10, batch, n_in, side, side, device=machine.device, requires_grad=True)
        w = torch.randn(10, 64, n_in, 5, 5, device=machine.device, requires_grad=True)
        for form in (grouped, grouped_channels_last, one_by_one, unfolded):
            for precision in machine.precisions:
                tf32 = precision == "tf32"
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
                bfloat16 = precision == "bfloat16"
                with torch.autocast(machine.device, torch.bfloat16, enabled=bfloat16):
                    y = form(x, w)
                    row = {"form": form.__name__, "precision": precision, "channels": n_in}
                    row["ms forward"] = 1e3 * machine.seconds(lambda: form(x, w))  # noqa: B023
                one = torch.ones_like(y)
                for name, by in (("inputs", x), ("weights", w)):
                    step = lambda: torch.autograd.grad(y, by, one, retain_graph=True)  # noqa: B023, E731
                    row[f"ms backward to {name}"] = 1e3 * machine.seconds(step)
                yield row


def copies(machine: Machine) -> Iterator[Row]:
    host = torch.randn(10, 797_962)
    card, signs = host.to(machine.device), host.to(machine.device).sign().to(torch.int8)
    steps: dict[str, Callable[[], object]] = {
        "models to the GPU": lambda: host.to(machine.device),
        "models to the host": lambda: card.cpu(),
        "signs to the host, a byte each": lambda: signs.cpu().numpy(),
        "signs to the host, packed": lambda: pack_positive(signs),
    }
    if machine.gpu:
        pinned = host.pin_memory()
        steps["models to the GPU, pinned"] = lambda: card.copy_(pinned, non_blocking=True)
        steps["models to the host, pinned"] = lambda: pinned.copy_(card, non_blocking=True)
    for name, step in steps.items():
        yield {"copy of ten clients": name, "ms": 1e3 * machine.seconds(step)}


def ray(machine: Machine) -> Iterator[Row]:
    for actors in (1, 4) if machine.gpu else (1,):
        gpus = 1 / actors if machine.gpu else 0.0
        compute = {"executor": "ray", "actors": actors, "gpus_per_actor": gpus}
        compute |= {"clients_per_task": -(-10 // actors)}
        problem = machine.problem(LENET, federation={"rounds": 8}, compute=compute)
        with backend("ray").open(problem, None) as (executor, where):
            _, taken = run(problem, executor)
            query = "--query-compute-apps=pid,used_memory"
            used = ["nvidia-smi", query, "--format=csv,noheader"] if machine.gpu else ["true"]
            memory = subprocess.run(used, capture_output=True, text=True).stdout.splitlines()
        yield {"where": where, "ms a round": 1e3 * statistics.median(taken[1:-1]), "memory": memory}


BLOCKS = {
    "models": models,
    "waits": waits,
    "bits": bits,
    "rounds": lenet_rounds,
    "graphs": step_graphs,
    "states": states,
    "resnet": resnet_rounds,
    "spans": spans,
    "kernels": kernels,
    "convs": convs,
    "copies": copies,
    "ray": ray,
}


def run_block(name: str, machine: Machine) -> None:
    """Print the rows of a block as JSON, one a line, as they come."""
    for row in {**BLOCKS, "digest": digest}[name](machine):
        short = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
        print(json.dumps(short), flush=True)


def device_line(device: str) -> Row:
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": what, "torch": torch.__version__, "cuda": torch.version.cuda}


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("blocks", nargs="*", metavar="BLOCK", help=", ".join(BLOCKS))
    p.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    p.add_argument("--limit", type=float, default=180, help="seconds of a block")
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--only", help=argparse.SUPPRESS)  # the block of this process
    options = p.parse_args()
    if options.only:
        run_block(options.only, Machine(options.device))
        return
    if unknown := set(options.blocks) - set(BLOCKS):
        p.error(f"no such block: {', '.join(sorted(unknown))}; there are {', '.join(BLOCKS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured")
    with options.out.open("a") as out:

        def note(row: Row) -> None:
            print(json.dumps(row), flush=True)
            print(json.dumps(row), file=out, flush=True)

        note(device_line(options.device))
        for name in options.blocks or BLOCKS:
            for row in rows_of(name, options.device, options.limit):
                note({"block": name, **row})


def rows_of(name: str, device: str, limit: float) -> Iterator[Row]:
    """The rows of a block, from a process of its own, and how the process ended if not well."""
    command = [sys.executable, __file__, "--only", name, "--device", device]
    timer = ["timeout", "--kill-after=5", str(limit)]
    began = time.perf_counter()
    with subprocess.Popen([*timer, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line) if line.startswith("{") else {"said": line.rstrip()}
    status = process.returncode
    ended = "" if not status else "time limit" if status == 124 else f"exit status {status}"
    yield {"seconds": time.perf_counter() - began, **({"ended by": ended} if ended else {})}


if __name__ == "__main__":
    main()
