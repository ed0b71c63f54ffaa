"""One trial of a sweep, in a process of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util import get_current_placement_group

from fedsmu_ray.config.validation import Config, parse
from fedsmu_ray.errors import ExperimentError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.executors.ray_executor import RayExecutor
from fedsmu_ray.experiment import run as experiment
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import Progress
from fedsmu_ray.sweeps import space
from fedsmu_ray.tracking import mlflow as tracking


class Trial(tune.Trainable):
    """One experiment of a sweep, in a process of its own; every step is one evaluated round.

    The process and its actors outlive the trial and are given the next one (`reset_config`): everything they know
    of an experiment is replaced by it.
    """

    def setup(
        self,
        config: dict[str, Any],
        source: Mapping[str, Any],
        dataset: list[ray.ObjectRef],
        folder: str,
    ) -> None:
        self.sweep, (self.dataset,), self.folder, self.executor = (
            parse(source),
            dataset,
            Path(folder),
            None,
        )
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self.began = time.perf_counter()
        trial = space.configure(self.sweep, json.loads(config["params"]))
        dataset = self.dataset if _data_key(trial) == _data_key(self.sweep) else None
        problem = Problem.of(trial, ray.get(dataset) if dataset else None)
        if trial.compute.executor == "inline":
            self.executor = InlineExecutor(problem)
        else:
            # Tune reuses this process only for trials with the same resources, so the actors fit as they are.
            if self.executor is None:
                self.executor = RayExecutor(
                    trial.compute, trial.compute.actors or 1, get_current_placement_group()
                )
            self.executor.load(problem, dataset)
        self.problem, self.progress = problem, Progress()
        folder = (
            self.folder / f"checkpoint-{config['index']:03d}" if trial.checkpoint.every else None
        )
        self.rounds = experiment.resumable(problem, self.executor, self.progress, folder)

    def step(self) -> dict[str, Any]:
        try:
            return self._step()
        except (
            ExperimentError
        ) as error:  # the trial's own fault, so the process can go on with the next
            return {"done": True, "error": f"{type(error).__name__}: {error}"}

    def _step(self) -> dict[str, Any]:
        for record in self.rounds:
            if record.test_accuracy is not None:
                break
        done = record.round == self.problem.config.federation.rounds
        # Before the end the server is already a round ahead of this record, so only the last one has a hash.
        sha256 = self.executor.sha256() if done else None
        summary = experiment.summarize(
            self.problem, self.progress, sha256, time.perf_counter() - self.began
        )
        return {
            **tracking.metrics(record),
            "round": record.round,
            "done": done,
            "summary": json.dumps(summary),
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if self.executor:
            self.executor.close()


class Resources:
    """Trial config -> placement group: one bundle per client actor. The trial's process and its server mostly wait, and
    reserve nothing."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.source = source

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        compute = space.configure(parse(self.source), json.loads(config["params"])).compute
        bundle = {
            "CPU": compute.cpus_per_actor,
            **({"GPU": compute.gpus_per_actor} if compute.gpus_per_actor else {}),
        }
        if compute.executor == "inline":
            return tune.PlacementGroupFactory([bundle])
        return tune.PlacementGroupFactory([{}] + [bundle] * (compute.actors or 1), strategy="PACK")


def _data_key(config: Config) -> tuple[Any, ...]:
    return config.data.dataset, config.data.folder(), config.data.options
