"""Run rounds of a workload in plain PyTorch, as the script of a paper would, without a framework.

One process trains one client after another; two train half of the cohort each.
"""

from __future__ import annotations

import json
import mmap
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from torch.nn.utils import parameters_to_vector
from turns import turns
from workloads import Workload, train

BETA1, BETA2, GAMMA1, GAMMA2 = 0.9, 0.9, 0.015, 0.01  # of FedSMU


def zeros(*shape: int, shared: bool) -> torch.Tensor:
    """Zeros, in memory that processes forked later share if `shared`."""
    if not shared:
        return torch.zeros(shape)
    size = torch.Size(shape)
    return torch.frombuffer(mmap.mmap(-1, 4 * size.numel()), dtype=torch.float32).view(size)


class Plain:
    """Rounds of plain PyTorch; `x`: the model vector [P] after each."""

    def __init__(self, workload: Workload, processes: int = 1) -> None:
        torch.manual_seed(0)
        shared = processes > 1
        self.workload, self.data = workload, workload.client_data()
        self.model, self.local = workload.module(), workload.module()
        parameters = list(self.model.parameters())
        self.momenta = []
        if workload.method == "fedsmu":
            self.momenta = [zeros(workload.clients, *p.shape, shared=shared) for p in parameters]
        self.sums = [zeros(*p.shape, shared=shared) for p in parameters]
        self.others: list[tuple[Connection, list[torch.Tensor]]] = []
        if shared:
            self.model.share_memory()
        for _ in range(processes - 1):
            near, far = get_context("fork").Pipe()
            sums = [zeros(*p.shape, shared=True) for p in parameters]
            get_context("fork").Process(
                target=self.work, args=(far, near, sums), daemon=True
            ).start()
            far.close()
            self.others.append((near, sums))

    def work(self, pipe: Connection, near: Connection, sums: list[torch.Tensor]) -> None:
        """Another process: train the clients that it is sent, until the first one ends."""
        near.close()
        while True:
            try:
                clients = pipe.recv()
            except EOFError:
                return
            self.train(clients, sums)
            pipe.send(None)

    def train(self, clients: list[int], sums: list[torch.Tensor]) -> None:
        """Train clients and add up their uploads: models (FedAvg) or signs (FedSMU)."""
        for total in sums:
            total.zero_()
        for client in clients:
            self.local.load_state_dict(self.model.state_dict())
            train(self.local, *self.data[client], self.workload)
            self.add_upload(client, sums)

    @torch.no_grad()
    def add_upload(self, client: int, sums: list[torch.Tensor]) -> None:
        for i, (x, y) in enumerate(zip(self.model.parameters(), self.local.parameters())):
            if self.workload.method == "fedavg":
                sums[i] += y
                continue
            m, delta = self.momenta[i][client], y - x
            sums[i] += torch.sign(BETA1 * m + (1 - BETA1) * delta)
            self.momenta[i][client] = BETA2 * m + (1 - BETA2) * delta

    @torch.no_grad()
    def round(self, cohort: list[int]) -> None:
        processes = 1 + len(self.others)
        for i, (pipe, _) in enumerate(self.others, 1):
            pipe.send(cohort[i::processes])
        with torch.enable_grad():
            self.train(cohort[::processes], self.sums)
        for pipe, sums in self.others:
            pipe.recv()
            for total, other in zip(self.sums, sums):
                total += other
        for x, total in zip(self.model.parameters(), self.sums):
            mean = total / len(cohort)
            if self.workload.method == "fedavg":
                x.copy_(mean)
            else:
                x += GAMMA1 * (mean - GAMMA2 * x)

    @property
    def x(self) -> torch.Tensor:
        return parameters_to_vector(self.model.parameters()).detach()


def main(workload: Workload, processes: int) -> None:
    torch.set_num_threads(1)
    plain = Plain(workload, processes)
    for cohort in turns():
        plain.round(cohort)


if __name__ == "__main__":
    main(Workload(**json.loads(sys.argv[1])), int(sys.argv[2]))
