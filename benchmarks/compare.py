"""Compare the seconds per round of several programs that do the same work.

    python benchmarks/compare.py W1|W2 [--peer flower=PYTHON] [--peer pfl=PYTHON] [--repeat 3]

PYTHON is the interpreter of an environment in which the peer is installed (see
benchmarks/README.md). Every repetition runs all programs in turn. Prints one line per program: the
minimum, median and maximum over all timed rounds, client tasks per second, and the ratio to ours
(minimum, median and maximum), computed per repetition because the speed of a machine drifts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def once(command: list[str]) -> dict:
    for attempt in (1, 2, 3):  # multi-process launchers abort occasionally
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"program"')]
        if not done.returncode and lines:
            return json.loads(lines[-1])
        print(
            f"attempt {attempt} of 3: {' '.join(command)} failed:\n{done.stderr[-500:]}",
            file=sys.stderr,
        )
    sys.exit(1)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("workload", choices=["W1", "W2"])
    p.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    p.add_argument("--repeat", type=int, default=3)
    options = p.parse_args()
    commands = {
        f"ours-{how}": [sys.executable, "run_ours.py", options.workload, how]
        for how in ("ray", "inline")
    }
    commands |= {
        f"plain-{n}": [sys.executable, "run_plain.py", options.workload, str(n)] for n in (1, 2)
    }
    for peer in options.peer:
        name, python = peer.split("=", 1)
        commands[name] = [python, f"run_{name}.py", options.workload]
        if name == "pfl":  # pfl can distribute a cohort over several processes
            commands["pfl-2"] = [
                python,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                "2",
                *commands[name][1:],
            ]
    results: dict[str, list[dict]] = {name: [] for name in commands}
    for _ in range(options.repeat):
        for name, command in commands.items():
            results[name].append(once(command))
    medians = {
        name: [statistics.median(r["seconds"]) for r in runs] for name, runs in results.items()
    }
    ours = min(("ours-ray", "ours-inline"), key=lambda name: statistics.median(medians[name]))
    print(
        f"{'program':<12} {'min s':>8} {'median s':>9} {'max s':>8} {'tasks/s':>9}   "
        f"ratio to {ours} (min, median, max of {options.repeat})"
    )
    for name, runs in results.items():
        seconds = [s for r in runs for s in r["seconds"]]
        ratios = sorted(a / b for a, b in zip(medians[name], medians[ours]))
        middle = statistics.median(seconds)
        print(
            f"{name:<12} {min(seconds):8.4f} {middle:9.4f} {max(seconds):8.4f} "
            f"{runs[0]['tasks'] / middle:9.0f}   "
            f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}"
        )


if __name__ == "__main__":
    main()
