"""Compare rounds of this package with a plain PyTorch loop, on a grid of workloads.

    python benchmarks/matrix.py --quick | --all | --rows PATTERN ... [--ray]
                                [--peer pfl=PYTHON] [--peer flower=PYTHON] [--seconds 15] [--list]

--quick: about twenty rows with every model, split, batch size, cohort and method; PATTERN: rows by
name, as in "lenet-64 *fedavg" (--list shows the names). PYTHON is the interpreter of an environment
with the peer (see benchmarks/README.md), for rows of FedAvg.

A row is measured in processes of one thread that do the same rounds, cohort by cohort: they take
turns, one block of rounds after another, for about SECONDS. For every block, the time of the other
program is divided by ours, so above 1 we are faster. A row shows the median of these ratios, with
their minimum and maximum: of the plain loop by CPU time and by elapsed time, of peers by elapsed
time. With --ray, rows whose round takes more than 100 ms in the plain loop are also run with two
client actors, against two plain processes that share the cohort (elapsed time). The last lines are
about the ratios to the plain loop, by CPU time, and to two plain processes.

First it is checked, per model and split, that ours and the plain loop do the same: with one batch
per client, two rounds of FedAvg from the same model must end in the same model.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import torch
from run_ours import opened
from run_plain import Plain
from torch.nn.utils import vector_to_parameters
from workloads import QUICK, Workload, every_row

from fedsmu_ray.federation.cohort import sample_cohort

HERE = Path(__file__).parent
SEED = 0  # of the configuration, which decides the cohorts
BLOCK_SECONDS = 0.25  # shortest block of the plain loop
RAY_SECONDS = 0.1  # shortest round of the plain loop that is also measured over Ray
HEADER = (
    "| workload | blocks x rounds | CPU ms a round: ours | plain "
    "| plain / ours, CPU time | the same, elapsed |"
)

Seconds = dict[str, float]  # by clock: "wall" and "cpu"


class Program:
    """A program that runs rounds when it is asked to (see turns.py)."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on exit
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def rounds(self, cohorts: list[list[int]]) -> Seconds:
        """Seconds of some rounds, by clock."""
        total = {"wall": 0.0, "cpu": 0.0}
        for cohort in cohorts:
            taken = self.ask(cohort)
            total = {clock: total[clock] + taken[clock] for clock in total}
        return total

    def ask(self, cohort: list[int]) -> Seconds:
        try:
            print(json.dumps(cohort), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.errors.seek(0)
            sys.exit(f"{' '.join(self.command)} failed:\n{self.errors.read()[-3000:]}")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def in_turns(
    commands: dict[str, list[str]], workload: Workload, seconds: float
) -> tuple[int, dict[str, list[Seconds]]]:
    """Run the same rounds in all programs, block by block.

    Returns the rounds of a block, and each program's seconds per round in each block. The first two
    rounds are not counted.
    """

    def cohorts(first: int, count: int) -> list[list[int]]:
        numbers = range(first, first + count)
        return [sample_cohort(SEED, t, workload.clients, workload.cohort) for t in numbers]

    taken: dict[str, list[Seconds]] = {name: [] for name in commands}
    with ExitStack() as stack:
        programs = {name: stack.enter_context(Program(c)) for name, c in commands.items()}
        for t in (1, 2):
            warm = {
                name: program.rounds(cohorts(t, 1))["wall"] for name, program in programs.items()
            }
        length = math.ceil(BLOCK_SECONDS / warm["plain"])
        blocks = math.ceil(seconds / (length * sum(warm.values())))
        for block in range(max(3, min(blocks, 25))):
            order = list(programs) if block % 2 else list(programs)[::-1]
            given = cohorts(3 + block * length, length)
            for name in order:
                total = programs[name].rounds(given)
                taken[name].append({clock: s / length for clock, s in total.items()})
    return length, taken


def ratios(taken: dict[str, list[Seconds]], other: str, clock: str) -> list[float]:
    """Seconds of another program divided by ours, of every block, in ascending order."""
    return sorted(a[clock] / b[clock] for a, b in zip(taken[other], taken["ours"]))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def milliseconds(blocks: list[Seconds], clock: str) -> str:
    return f"{1e3 * statistics.median(block[clock] for block in blocks):.1f}"


def command(python: str, file: str, workload: Workload, *arguments: str) -> list[str]:
    return [python, str(HERE / file), json.dumps(asdict(workload)), *arguments]


def measure(workload: Workload, options: argparse.Namespace) -> tuple[float, float | None]:
    """Measure and print one row.

    Returns the median ratios to the plain loop, by CPU time, and to two plain processes, if
    measured.
    """
    check_equal_work(replace(workload, method="fedavg", clients=6, samples=60, cohort=4, batch=999))
    ours = command(sys.executable, "run_ours.py", workload, "inline")
    plain = command(sys.executable, "run_plain.py", workload, "1")
    peers = dict(options.peer)
    commands = {"ours": ours, "plain": plain}
    if workload.method == "fedavg":
        commands |= {name: command(peers[name], f"run_{name}.py", workload) for name in peers}
    length, taken = in_turns(commands, workload, options.seconds)
    by_cpu = ratios(taken, "plain", "cpu")
    cells = [str(workload), f"{len(by_cpu)} x {length}"]
    cells += [milliseconds(taken[name], "cpu") for name in ("ours", "plain")]
    cells += [spread(by_cpu), spread(ratios(taken, "plain", "wall"))]
    cells += [spread(ratios(taken, n, "wall")) if n in taken else "" for n in peers]
    slow = statistics.median(block["cpu"] for block in taken["plain"]) > RAY_SECONDS
    over_ray = ray_ratios(workload, options.seconds, cells) if options.ray and slow else []
    cells += ["", "", ""] * (options.ray and not slow)
    print(f"| {' | '.join(cells)} |", flush=True)
    return statistics.median(by_cpu), statistics.median(over_ray) if over_ray else None


def ray_ratios(workload: Workload, seconds: float, cells: list[str]) -> list[float]:
    """Ratios of two plain processes to two client actors; appends to the cells of the row."""
    ours = command(sys.executable, "run_ours.py", workload, "ray")
    plain = command(sys.executable, "run_plain.py", workload, "2")
    _, taken = in_turns({"ours": ours, "plain": plain}, workload, seconds)
    found = ratios(taken, "plain", "wall")
    cells += [milliseconds(taken[name], "wall") for name in ("ours", "plain")]
    cells.append(spread(found))
    return found


@cache
def check_equal_work(workload: Workload) -> None:
    """Exit unless two rounds change the model of ours and of the plain loop in the same way.

    Rounding alone changes resnet18 by 0.003 of its way: so does another memory order of its images.
    """
    with opened(workload, "inline") as ours:
        plain, start = Plain(workload), ours.x
        vector_to_parameters(start.clone(), plain.model.parameters())
        for t in (1, 2):
            cohort = sample_cohort(SEED, t, workload.clients, workload.cohort)
            ours.round(cohort)
            plain.round(cohort)
        apart, moved = torch.dist(ours.x, plain.x), torch.dist(plain.x, start)
    if not 0 <= apart < 1e-2 * moved:
        sys.exit(f"{workload}: the models differ by {apart:.2g} after moving by {moved:.2g}")


def chosen(options: argparse.Namespace) -> list[Workload]:
    rows = QUICK if options.quick else every_row()
    patterns = options.rows or ["*"]
    found = [row for row in rows if any(fnmatch(str(row), pattern) for pattern in patterns)]
    return found or sys.exit("no row has such a name; --list shows the names")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--quick", action="store_true")
    which.add_argument("--all", action="store_true")
    which.add_argument("--rows", nargs="+", metavar="PATTERN")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        type=lambda text: text.split("=", 1),
    )
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    rows = chosen(options)
    if options.list:
        print(*rows, sep="\n")
        return
    header = HEADER + "".join(f" {name} / ours, elapsed |" for name, _ in options.peer)
    header += " Ray, ms a round: ours | plain | plain / ours |" * options.ray
    print(header, "|---" * (header.count("|") - 1) + "|", sep="\n", flush=True)
    medians = [measure(row, options) for row in rows]
    print()
    for where, found in zip(("inline", "over Ray"), zip(*medians)):
        known = [ratio for ratio in found if ratio is not None]
        if known:
            middle = statistics.median(known)
            print(f"{where}: {len(known)} rows, lowest {min(known):.2f}, median {middle:.2f}")


if __name__ == "__main__":
    main()
