"""The client side of a round: a group of clients from the broadcast to their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedsmu_ray import message
from fedsmu_ray.data import DeviceData, as_tensor
from fedsmu_ray.local import Local, Trainer
from fedsmu_ray.problem import Problem

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
            _claim_gpu(compute.gpus_per_actor)
        self.problem, self.method = problem, problem.method
        module = problem.module().to(self.device)
        data = DeviceData(problem.dataset, self.device)
        self.trainer = Trainer(module, data, problem.partition, problem.config.local, problem.config.seed,
                               problem.config.data.augment)
        self.received: tuple[int, Mapping[str, torch.Tensor]] | None = None

    def _receive(self, round: int, broadcast: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The decoded broadcast; kept for the further tasks of the round."""
        if self.received is None or self.received[0] != round:
            fields = self.method.downlink
            values = message.decode(fields, broadcast, self.problem.dim, round, [message.SERVER])
            self.received = round, {name: value[0].to(self.device) for name, value in values.items()}
        return self.received[1]

    def train(self, round: int, clients: Sequence[int], broadcast: np.ndarray,
              states: Sequence[Mapping[str, np.ndarray] | None]) -> tuple[np.ndarray, Report, list[dict[str, np.ndarray]]]:
        """One round of a group of clients.

        broadcast: the server's message. states: of each client, named float32 [P] arrays, or None before its first
        round. Returns the messages uint8 [C, bytes], the report, and the new states in shards of named [R, P]
        arrays (`Problem.shard_clients` rows each).
        """
        received = self._receive(round, broadcast)
        fresh = self.method.client_init(received["x"])
        state = {name: torch.stack([as_tensor(s[name]).to(self.device) if s else zero for s in states])
                 for name, zero in fresh.items()}
        local = Local(self.trainer, round, torch.tensor(clients))
        upload, state = self.method.client(received, state, local)
        messages = message.encode(self.method.uplink, upload, round, clients)
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        rows = self.problem.shard_clients or len(clients)
        shards = [{name: a[i : i + rows] for name, a in arrays.items()} for i in range(0, len(clients), rows)] if arrays else []
        return messages, Report(local.losses.tolist(), local.zeros), shards

    def evaluate(self, round: int, broadcast: np.ndarray, start: int, stop: int) -> tuple[int, float]:
        """Correct predictions and summed cross-entropy of the broadcast model on test samples start..stop."""
        trainer = self.trainer
        params = trainer.layout.named(trainer.layout.views(self._receive(round, broadcast)["x"]))
        correct, loss = 0, 0.0
        trainer.module.eval()
        with torch.inference_mode():
            for i in range(start, stop, EVALUATION_BATCH):
                inputs, targets = trainer.data.test_batch(i, min(i + EVALUATION_BATCH, stop))
                outputs = functional_call(trainer.module, params, inputs)
                correct += int((outputs.argmax(-1) == targets).sum())
                loss += float(F.cross_entropy(outputs, targets, reduction="sum"))
        trainer.module.train()
        return correct, loss


def _claim_gpu(share: float) -> None:
    """Hold this process to its share of the card's memory (Ray only does the bookkeeping), and to repeatable sums."""
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
