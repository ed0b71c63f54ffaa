"""The client side of a round: a group of clients from the broadcast to their messages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedsmu_ray.datasets.dataset import DeviceData
from fedsmu_ray.federation.local_training import Local, Trainer, channels_last
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.wire import message
from fedsmu_ray.wire.message import Fields

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Report:
    """What a client task tells beside its messages; clients in cohort order."""

    losses: list[float]  # mean local training loss of each client
    zeros: int  # coordinates whose sign was that of an exact zero


class ClientWorker:
    """Runs client tasks and evaluations. Tasks are pure: the result depends on the arguments and the problem only."""

    def __init__(self, problem: Problem) -> None:
        compute = problem.config.compute
        torch.set_num_threads(max(1, int(compute.cpus_per_actor)))
        self.device = torch.device("cuda" if compute.gpus_per_actor else "cpu")
        if self.device.type == "cuda":
            _claim_gpu(compute.gpus_per_actor, compute.precision)
        self.problem, self.method = problem, problem.method
        module = problem.module().to(self.device)
        self.initial = parameters.flatten(module)
        data = DeviceData(problem.dataset, self.device)
        self.trainer = Trainer(
            module,
            data,
            problem.partition,
            problem.config.local,
            problem.config.seed,
            problem.config.data.augment,
            compute.precision,
        )
        self.received: tuple[Any, Mapping[str, torch.Tensor]] = None, {}

    def _receive(self, round: int, fields: Fields, sent: np.ndarray) -> Mapping[str, torch.Tensor]:
        """A decoded message of the server; kept for the further tasks of the round."""
        key = round, tuple(fields)
        if self.received[0] != key:
            values = message.decode(fields, sent, self.problem.dim, round, [message.SERVER])
            # A copy, since a method that changed a tensor in place would otherwise write to memory that is not its own.
            self.received = (
                key,
                {name: value[0].to(self.device, copy=True) for name, value in values.items()},
            )
        return self.received[1]

    def _stack(self, states: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, torch.Tensor]:
        """States of a group as [C, P] tensors."""
        fresh = self.method.client_init(self.initial)
        return {
            name: torch.stack([as_tensor(s[name]).to(self.device) if s else first for s in states])
            for name, first in fresh.items()
        }

    def _shards(
        self, state: Mapping[str, torch.Tensor], clients: int
    ) -> list[dict[str, np.ndarray]]:
        """New states of a group, cut into shards of `Problem.shard_clients` rows."""
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        rows = self.problem.shard_clients or clients
        return (
            [{name: a[i : i + rows] for name, a in arrays.items()} for i in range(0, clients, rows)]
            if arrays
            else []
        )

    def train(
        self,
        round: int,
        clients: Sequence[int],
        broadcast: np.ndarray,
        states: Sequence[Mapping[str, np.ndarray] | None],
    ) -> tuple[np.ndarray, Report, list[dict[str, np.ndarray]]]:
        """One round of a group of clients.

        broadcast: the server's message. states: of each client, named float32 [P] arrays, or None before its first
        round. Returns the messages uint8 [C, bytes], the report, and the new states in shards of named [R, P]
        arrays (`Problem.shard_clients` rows each).
        """
        received = self._receive(round, self.problem.downlink, broadcast)
        local = Local(self.trainer, round, torch.tensor(clients), self.problem.setting)
        upload, state = self.method.client(received, self._stack(states), local)
        messages = message.encode(self.problem.uplink, upload, round, clients)
        return (
            messages,
            Report(local.losses.tolist(), local.zeros),
            self._shards(state, len(clients)),
        )

    def hear(
        self,
        round: int,
        answered: int,
        clients: Sequence[int],
        reply: np.ndarray,
        states: Sequence[Mapping[str, np.ndarray] | None],
    ) -> list[dict[str, np.ndarray]]:
        """What the server's reply to `answered` clients makes of the states of a group, for a method that has one; in
        shards, like `train`."""
        received = self._receive(round, self.problem.feedback_fields(answered), reply)
        setting = replace(self.problem.setting, cohort=answered)
        return self._shards(self.method.apply_feedback(received, self._stack(states), setting), len(clients))

    def evaluate(self, round: int, sent: np.ndarray, start: int, stop: int) -> tuple[int, float]:
        """Correct predictions and summed cross-entropy of the server's model on test samples start..stop.

        sent: the broadcast, or, where that holds no model, `Server.model`.
        """
        trainer = self.trainer
        params = trainer.layout.named(
            trainer.layout.views(self._receive(round, self.problem.model_fields, sent)["x"])
        )
        correct, loss = 0, 0.0
        trainer.module.eval()
        with torch.inference_mode():
            for i in range(start, stop, EVALUATION_BATCH):
                inputs, targets = trainer.data.test_batch(i, min(i + EVALUATION_BATCH, stop))
                outputs = functional_call(trainer.module, params, channels_last(inputs))
                correct += int((outputs.argmax(-1) == targets).sum())
                loss += float(F.cross_entropy(outputs, targets, reduction="sum"))
        trainer.module.train()
        return correct, loss


def _claim_gpu(share: float, precision: str) -> None:
    """Hold this process to its share of the card's memory (Ray only does the bookkeeping), and to repeatable sums."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # without it PyTorch refuses deterministic products
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    torch.backends.cudnn.benchmark = False
    torch.backends.fp32_precision = (
        "tf32" if precision == "tf32" else "ieee"
    )  # convolutions would take tf32 unasked
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # a debugging aid that writes every new tensor twice
    )
