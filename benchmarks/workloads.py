"""The work that every program does: federated averaging with local SGD on random samples.

Imports only torch and NumPy, so that it runs in the environment of every peer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Workload:
    clients: int
    samples: int  # per client
    shape: tuple[int, ...]
    cohort: int
    batch: int
    lr: float
    rounds: int  # timed rounds, after at least one that is not timed

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        if len(self.shape) == 1:
            return nn.Linear(self.shape[0], 10)
        return nn.Sequential(
            nn.Conv2d(3, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1600, 384),
            nn.ReLU(),
            nn.Linear(384, 192),
            nn.ReLU(),
            nn.Linear(192, 10),
        )

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples float32 [clients * samples, *shape] and labels; client i owns the i-th slice."""
        rng = np.random.default_rng(0)
        total = self.clients * self.samples
        return rng.standard_normal((total, *self.shape), dtype=np.float32), rng.integers(
            10, size=total
        )


WORKLOADS = {
    # Compute-bound: LeNet, 10 of 100 clients per round.
    "W1": Workload(100, 500, (3, 32, 32), 10, 50, 0.1, 4),
    # Overhead-bound: Linear(64 -> 10), 100 of 1000 clients per round.
    "W2": Workload(1000, 20, (64,), 100, 10, 0.1, 10),
}


def train(module: nn.Module, x: torch.Tensor, y: torch.Tensor, workload: Workload) -> None:
    """Train one client for one epoch in ordinary PyTorch."""
    optimizer = torch.optim.SGD(module.parameters(), lr=workload.lr)
    for batch in torch.randperm(len(y)).split(workload.batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
        optimizer.step()


def report(program: str, workload: Workload, seconds: list[float]) -> None:
    """Print the seconds of every timed round as the JSON line that `compare.py` reads."""
    print(
        json.dumps({"program": program, "seconds": seconds, "tasks": workload.cohort}), flush=True
    )
