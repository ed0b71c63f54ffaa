"""Time --help, the start of a sweep until its first record, and the gap between two trials.

    python benchmarks/start.py [--repeat 3] [FILE] [key=value ...]

Runs the quickstart sweep (or FILE) in an empty folder, with only a few rounds. Prints for every
repetition when each kind of process appeared, when the first record was written, and the CPU
seconds that each kind of process had used until then (less noisy than elapsed time on a shared
machine). Records are timed by MLflow's timestamps, processes by polling ten times a second.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

# Text in the command line of a process -> the kind of the process.
KINDS = {
    "fedsmu_ray.tune": "command",
    "ray::ClientActor": "client actor",
    "ray::ResourceTrainable": "trial",
    "ray::IDLE": "idle worker",
    "default_worker.py": "idle worker",
}

# Seconds since the start of the command, {pid: (kind, CPU seconds)}.
Sample = tuple[float, dict[int, tuple[str, float]]]


def kind(process: psutil.Process) -> str:
    """Name the kind of a process: one of KINDS, or a process of Ray itself."""
    line = " ".join(process.cmdline())
    if Path(line.split(" ")[0]).name == "raylet":  # its arguments name a worker's script
        return "Ray's raylet"
    for found, name in KINDS.items():
        if found in line:
            return name
    script = next(
        (word for word in line.split() if word.endswith(".py")), (line.split() or ["gone"])[0]
    )
    return f"Ray's {Path(script).stem.removeprefix('ray::')}"


def family(root: psutil.Process) -> dict[int, tuple[str, float]]:
    found = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[process.pid] = kind(process), times.user + times.system
        except psutil.Error:
            pass
    return found


def watch(command: list[str], folder: str) -> tuple[float, list[Sample]]:
    """Run the command to its end; returns its start as a Unix time, and the samples taken."""
    began, samples = time.time(), []
    with open(Path(folder) / "out.txt", "w") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                samples.append((time.time() - began, family(root)))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
    if process.wait():
        raise SystemExit((Path(folder) / "out.txt").read_text())
    return began, samples


def measure(arguments: list[str]) -> dict[str, float]:
    """Run one sweep; returns the measured seconds by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "fedsmu_ray.tune",
            "--quiet",
            *arguments,
            "tracking.uri=sqlite:///mlflow.db",
        ]
        began, samples = watch(command, folder)
        with sqlite3.connect(Path(folder) / "mlflow.db") as store:
            trials = store.execute(
                "SELECT start_time / 1e3, end_time / 1e3, MIN(timestamp) / 1e3 FROM runs JOIN "
                "metrics USING (run_uuid) "
                "WHERE key = 'test/accuracy' GROUP BY run_uuid ORDER BY start_time"
            ).fetchall()
    first = min(record for _, _, record in trials) - began
    out = {}
    for name in (
        "Ray's gcs_server",
        "Ray's raylet",
        "idle worker",
        "trial",
        "client actor",
    ):
        out[f"s until {name}"] = next(
            (at for at, seen in samples if name in {k for k, _ in seen.values()}), float("nan")
        )
    out["s until the first record"] = first
    latest: dict[int, tuple[str, float]] = {}
    for at, seen in samples:
        if at <= first:
            latest |= seen
    for name in sorted({k for k, _ in latest.values()}):
        costs = [cpu for k, cpu in latest.values() if k == name]
        out[f"CPU s of {len(costs)} {name}"] = sum(costs)
    out["CPU s in all until the first record"] = sum(cpu for _, cpu in latest.values())
    ends = [end for _, end, _ in trials]
    gaps = [
        record - max(e for e in ends if e <= start)
        for start, _, record in trials
        if start >= min(ends)
    ]
    if gaps:
        out["s from a trial's end to the next one's first record"] = statistics.median(gaps)
    out["s in all"] = samples[-1][0]
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("arguments", nargs="*", metavar="[FILE] key=value")
    p.add_argument("--repeat", type=int, default=1)
    options = p.parse_args()
    for _ in range(options.repeat):
        for module in ("tune", "train"):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", f"fedsmu_ray.{module}", "--help"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            print(f"{time.perf_counter() - began:7.2f} s for {module} --help")
        for name, value in measure(options.arguments or ["federation.rounds=8"]).items():
            print(f"{value:7.2f} {name}")
        print(flush=True)


if __name__ == "__main__":
    main()
