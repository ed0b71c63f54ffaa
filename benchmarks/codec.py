"""Time the client step, the server step, float sums and vote counting, without training.

    python benchmarks/codec.py [--dims D ...] [--votes N ...] [--repeat 7]

Each is compared with alternatives, on one thread, with one message per client and random values;
the C library keeps freed memory, as in the client actors. Every repetition runs all lines of a
table in turn, each after one warm-up call that is not counted. A line shows the CPU time of the
thread (median and minimum over the repetitions) and its ratio to the first line of the table,
computed per repetition (median, minimum and maximum).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from fedsmu_ray.algorithms.base import Round, Setting
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.numerics.allocator import keep_freed_memory
from fedsmu_ray.wire.codecs import Float32, Sign

METHOD = FedSMU(beta1=0.9, beta2=0.99)


def setting(dim: int) -> Setting:
    return Setting((dim,), clients=1, cohort=1, steps=1, lr=0.1)


def table(title: str, lines: dict[str, Callable[[], object]], repeat: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(repeat):
        for name, work in lines.items():
            work()
            began = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - began)
    first = next(iter(seconds.values()))
    print(f"\n{title:<44} {'median ms':>10} {'min ms':>9} {'ratio':>8} {'min':>8} {'max':>8}")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, first)]
        print(
            f"  {name:<42} {1e3 * statistics.median(taken):10.3f} {1e3 * min(taken):9.3f} "
            f"{statistics.median(ratios):8.2f} {min(ratios):8.2f} {max(ratios):8.2f}",
            flush=True,
        )


class TrainedClient(GroupSolver):
    """A solver whose local training returns the given y [1, P]."""

    def __init__(self, y: torch.Tensor) -> None:
        trainer = SimpleNamespace(seed=0, local=SimpleNamespace(lr=0.1))
        clients = torch.zeros(1, dtype=torch.int64)
        super().__init__(trainer, 1, clients, setting(y.shape[1]))
        self.y = y

    def train(self, x, correction=None, prox=0.0):
        return self.y


def client(dim: int, repeat: int) -> None:
    x, y, m = torch.randn(dim), torch.randn(1, dim), torch.randn(1, dim)
    source, target = np.ones(3 * dim // 2, np.float32), np.ones(3 * dim // 2, np.float32)

    def ours():
        upload, _ = METHOD.client({"x": x}, {"m": m}, TrainedClient(y))
        Sign().encode(upload["u"])

    def plain():
        delta = y - x
        v = 0.9 * m + (1 - 0.9) * delta
        np.packbits((v >= 0).numpy(), axis=-1)
        return 0.99 * m + (1 - 0.99) * delta

    table(
        f"client step, d = {dim:,}",
        {
            "copy 12 bytes/parameter, existing memory": lambda: np.copyto(target, source),
            "copy 12 bytes/parameter, new memory": source.copy,
            "packbits(v >= 0) alone": lambda: np.packbits(source[:dim] >= 0),
            "FedSMU.client and encode": ours,
            "plain torch, without the zero rule": plain,
        },
        repeat,
    )


def votes(dim: int, count: int, repeat: int) -> None:
    messages = np.random.default_rng(0).integers(0, 256, (count, 32 + Sign().size(dim)), np.uint8)
    messages[:, -1] &= 255 >> (-dim % 8)
    rows = messages[:, 32:]

    def naive(dtype):
        total = np.zeros(dim, dtype)
        for row in rows:
            total += np.unpackbits(row, count=dim, bitorder="little")

    weights = np.random.default_rng(1).integers(100, 1000, count).tolist()

    def ours(weighted=False):
        counter = Sign().accumulator(dim, False)
        for i, row in enumerate(rows):
            given = [weights[i : i + 1]] if weighted else []
            counter.add(i, counter.decode(row[None]), *given)
        counter.mean()

    table(
        f"{count} votes, d = {dim:,}",
        {
            "vote_counter: check, add, mean (float32)": ours,
            "the same, weighted by 100 to 999": lambda: ours(True),
            "unpackbits and add (int32)": lambda: naive(np.int32),
            "unpackbits and add (smallest integer)": lambda: naive(np.min_scalar_type(count)),
        },
        repeat,
    )


def server(dim: int, repeat: int) -> None:
    x, u = torch.randn(dim), torch.randn(dim)
    source, target = np.ones(3 * dim // 2, np.float32), np.ones(3 * dim // 2, np.float32)
    round = Round(1, (0,), setting(dim), 0)
    table(
        f"server step, d = {dim:,}",
        {
            "copy 12 bytes/parameter, existing memory": lambda: np.copyto(target, source),
            "copy 12 bytes/parameter, new memory": source.copy,
            "FedSMU.server": lambda: METHOD.server({"x": x}, {"u": u}, round),
            "plain torch": lambda: x + 0.015 * (u - 0.01 * x),
        },
        repeat,
    )


def floats(dim: int, repeat: int) -> None:
    rows = Float32().encode(torch.randn(4, dim))
    total = np.zeros(dim, np.float32)

    def unchecked():
        for row in rows.view(np.float32):
            np.add(total, row, out=total)

    def ours():
        counter = Float32().accumulator(dim, False)
        for i, row in enumerate(rows):
            counter.add(i, counter.decode(row[None]))

    table(
        f"4 float messages, d = {dim:,}",
        {"add, not checked": unchecked, "Float32: decode, check, add": ours},
        repeat,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[797_962, 11_181_642])
    memory = "1000 messages of 11 million parameters take 1.4 GB"
    parser.add_argument("--votes", type=int, nargs="+", default=[10, 100, 1000], help=memory)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for dim in options.dims:
        client(dim, options.repeat)
        server(dim, options.repeat)
        floats(dim, options.repeat)
        for count in options.votes:
            votes(dim, count, options.repeat)


if __name__ == "__main__":
    main()
