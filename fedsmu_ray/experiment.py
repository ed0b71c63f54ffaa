"""From a configuration to a finished run: the one place that wires data, executor, rounds, tracking and display."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fedsmu_ray import tracking, vector
from fedsmu_ray.config import Config
from fedsmu_ray.display import RunDisplay
from fedsmu_ray.execution import Executor
from fedsmu_ray.federation import Record, rounds
from fedsmu_ray.problem import Problem


@dataclass(frozen=True)
class Result:
    """A finished experiment."""

    summary: dict[str, Any]  # what `train --json` prints
    history: list[Record]  # every round
    params: np.ndarray  # the final model vector, float32 [P]
    problem: Problem

    def model(self) -> nn.Module:
        """The trained model."""
        return vector.load(self.problem.module(), torch.from_numpy(self.params.copy()))


def run(config: Config, address: str | None = None, display: bool = False) -> Result:
    """Run one experiment to its end.

    address: a Ray cluster to join; default: one on this machine. display: show progress on stderr. An interrupt or
    error ends the tracked run as KILLED or FAILED and is raised again.
    """
    began = time.perf_counter()
    problem = Problem.of(config)
    tracker = tracking.open_tracker(config.tracking)
    with executor(problem, address) as (running, where), RunDisplay(config, problem.dim, where, display) as shown:
        run_id = tracker.start(config.name, config)
        try:
            history = []
            for record in rounds(problem, running):
                history.append(record)
                shown.update(record)
                if record.test_accuracy is not None:
                    tracker.log(run_id, tracking.metrics(record), record.round)
            summary = summarise(problem, history, running.sha256(), time.perf_counter() - began)
            tracker.finish(run_id, "FINISHED", final_metrics(summary), {"model_sha256": summary["model_sha256"]})
        except BaseException as error:
            tracker.finish(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        return Result({"run_id": run_id, **summary}, history, running.params(), problem)


@contextmanager
def executor(problem: Problem, address: str | None) -> Iterator[tuple[Executor, str]]:
    """The executor of the configuration, loaded with the problem, and a line that says where it runs."""
    compute = problem.config.compute
    if compute.executor == "inline":
        from fedsmu_ray.execution.inline import InlineExecutor

        opened = InlineExecutor(problem)
        try:
            yield opened, "this process"
        finally:
            opened.close()
        return
    from fedsmu_ray.execution import actors

    with actors.cluster(address) as where:
        groups = -(-problem.config.federation.cohort // problem.group_size)
        count = compute.actors or actors.fitting_actors(compute, groups)
        opened = actors.RayExecutor(compute, count)
        try:
            opened.load(problem)
            yield opened, f"{count} client actor{'s' * (count > 1)} on {where}"
        finally:
            opened.close()


def summarise(problem: Problem, history: list[Record], sha256: str, seconds: float) -> dict[str, Any]:
    """The figures a run is compared by. Accuracies are in [0, 1], bytes are totals over rounds and clients."""
    last = history[-1]
    best = max((r for r in history if r.test_accuracy is not None), key=lambda r: r.test_accuracy)
    federation = problem.config.federation
    return {
        "name": problem.config.name,
        "method": problem.config.method_name,
        "rounds": last.round,
        "test_accuracy": last.test_accuracy,
        "test_loss": last.test_loss,
        "train_loss": last.train_loss,
        "best_test_accuracy": best.test_accuracy,
        "best_round": best.round,
        "uplink_bytes": last.uplink_bytes,
        "downlink_bytes": last.downlink_bytes,
        "clients": problem.config.data.clients,
        "cohort": federation.cohort,
        "dim": problem.dim,
        "model_sha256": sha256,
        "seconds": round(seconds, 3),
    }


def final_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Scalars that the MLflow run table can sort by."""
    return {
        "final/test_accuracy": summary["test_accuracy"],
        "final/test_loss": summary["test_loss"],
        "final/train_loss": summary["train_loss"],
        "final/uplink_bytes": summary["uplink_bytes"],
        "final/downlink_bytes": summary["downlink_bytes"],
        "final/seconds": summary["seconds"],
        "best/test_accuracy": summary["best_test_accuracy"],
        "best/round": summary["best_round"],
    }
