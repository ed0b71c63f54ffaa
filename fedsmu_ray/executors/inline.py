"""Everything in this process, one task after another: for debugging and tests, and for machines without Ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.tasks import Evaluate, ApplyFeedback, TrainResult, placed, raised


@dataclass(frozen=True, eq=False)
class Shard:
    """Handle of a shard of client states: one of a kind, as a reference into an object store is."""

    arrays: dict[str, np.ndarray]


class InlineExecutor:
    """The executor without processes. See `execution.Executor`."""

    def __init__(self, problem: Problem) -> None:
        self.threads = torch.get_num_threads()
        self.problem, self.server = problem, Server(problem)
        self.worker = ClientWorker(problem)
        self.open, self.step, self.reply, self.model = (
            self.server.open_round,
            self.server.step,
            self.server.feedback,
            self.server.model_message,
        )
        self.params, self.sha256, self.export, self.restore = (
            self.server.params,
            self.server.sha256,
            self.server.export_state,
            self.server.restore_state,
        )

    def run(self, sent, tasks):
        for task in tasks:
            if isinstance(task, Evaluate):
                yield task, self.worker.evaluate(task.round, sent, task.start, task.stop)
                continue
            states = [
                {name: a[s.row] for name, a in s.shard.arrays.items()} if s else None
                for s in task.states
            ]
            if isinstance(task, ApplyFeedback):
                shards = self.worker.apply_feedback(task.round, task.answered, task.clients, sent, states)
                yield (
                    task,
                    placed(task.clients, [Shard(a) for a in shards], self.problem.shard_clients),
                )
                continue
            try:
                messages, report, shards = self.worker.train(task.round, task.clients, sent, states)
            except Exception as error:
                yield task, raised(task, error)
                continue
            self.server.receive(task.position, task.clients, messages)
            yield (
                task,
                TrainResult(
                    report,
                    placed(task.clients, [Shard(a) for a in shards], self.problem.shard_clients),
                ),
            )

    def fetch(self, shard):
        return shard.arrays

    def place(self, arrays):
        return Shard(arrays)

    def recover(self):
        raise NotImplementedError("what this process holds cannot be lost without it")

    def close(self):
        torch.set_num_threads(self.threads)
