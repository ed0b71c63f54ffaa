"""The workloads of `matrix.py`: models, data and the table's rows, in ordinary PyTorch.

Imports only torch and NumPy (and torchvision for resnet18), so that it runs in the environment of
every peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import nn

SYMBOLS = 80  # of text; also the classes, since the next character is predicted
LR = 0.01
IMAGE = (3, 32, 32)
SHAPES = {  # of a sample; one number is the length of a text
    "linear": (64,),
    "mlp-64": (784,),
    "mlp-200": (784,),
    "lenet-8": IMAGE,
    "lenet-64": IMAGE,
    "resnet18": IMAGE,
    "lstm": (80,),
    "transformer": (32,),
}
TEXT = ("lstm", "transformer")


@dataclass(frozen=True)
class Workload:
    """What every program does in a round; local SGD with a learning rate of LR."""

    model: str
    split: str  # "equal" clients, or "lognormal": sizes differ by a log-normal factor, sigma 0.7
    batch: int
    cohort: int
    method: str  # "fedavg" or "fedsmu"
    clients: int = 500
    samples: int = 60  # of a client, on average
    epochs: int = 1

    def __str__(self) -> str:
        return (
            f"{self.model} {self.split} {self.clients}x{self.samples} b{self.batch} "
            f"c{self.cohort} e{self.epochs} {self.method}"
        )

    @property
    def classes(self) -> int:
        return SYMBOLS if self.model in TEXT else 10

    def sizes(self) -> np.ndarray:
        """Samples of each client, int64 [clients]."""
        if self.split == "equal":
            return np.full(self.clients, self.samples)
        factor = np.random.default_rng(1).lognormal(0, 0.7, self.clients)
        return np.ceil(self.samples * factor / factor.mean()).astype(np.int64)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples [N, *shape], float32 or int64 (text), and labels; one client after another."""
        rng, total = np.random.default_rng(0), int(self.sizes().sum())
        shape = (total, *SHAPES[self.model])
        if self.model in TEXT:
            x = rng.integers(SYMBOLS, size=shape)
        else:
            x = rng.standard_normal(shape, dtype=np.float32)
        return x, rng.integers(self.classes, size=total)

    def client_data(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Samples and labels of each client."""
        x, y = (torch.from_numpy(a).split(self.sizes().tolist()) for a in self.data())
        return list(zip(x, y))

    def module(self) -> nn.Module:
        match self.model:
            case "linear":
                return nn.Linear(64, 10)
            case "mlp-64":
                return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
            case "mlp-200":
                hidden = nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()
                return nn.Sequential(*hidden, nn.Linear(200, 10))
            case "lenet-8":
                return lenet(8)
            case "lenet-64":
                return lenet(64)
            case "resnet18":
                from torchvision.models import resnet18

                return resnet18(num_classes=10, norm_layer=partial(nn.GroupNorm, 2))
            case "lstm":
                return LSTM()
            case "transformer":
                return transformer(SHAPES[self.model], SYMBOLS)
        raise ValueError(self.model)


def lenet(filters: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, filters, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(filters, filters, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filters * 25, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, 10),
    )


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, 8)
        self.lstm = nn.LSTM(8, 100, num_layers=2, batch_first=True)
        self.head = nn.Linear(100, SYMBOLS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0][:, -1])


class Transformer(nn.Module):
    """Two layers of width 64 with four heads, without dropout."""

    def __init__(self, length: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, 64)
        self.position = nn.Parameter(0.02 * torch.randn(length, 64))
        layers = [
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(x) + self.position).mean(1))


def transformer(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The model as a user's own, for `import:`."""
    return Transformer(shape[0], classes)


def train(module: nn.Module, x: torch.Tensor, y: torch.Tensor, workload: Workload) -> None:
    """Train one client in ordinary PyTorch."""
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    for _ in range(workload.epochs):
        for batch in torch.randperm(len(y)).split(workload.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()


# About twenty rows with every model, split, batch size, cohort and method.
QUICK = [
    Workload("linear", "lognormal", 10, 10, "fedavg"),
    Workload("linear", "equal", 20, 500, "fedsmu"),
    Workload("linear", "equal", 10, 100, "fedavg", clients=1000, samples=20),
    Workload("mlp-64", "lognormal", 20, 10, "fedavg"),
    Workload("mlp-64", "equal", 10, 50, "fedsmu"),
    Workload("mlp-64", "lognormal", 50, 500, "fedavg"),
    Workload("mlp-200", "lognormal", 20, 50, "fedavg", epochs=2),
    Workload("mlp-200", "equal", 50, 10, "fedsmu"),
    Workload("mlp-200", "lognormal", 10, 50, "fedsmu"),
    Workload("mlp-200", "equal", 20, 500, "fedavg"),
    Workload("lenet-8", "equal", 10, 10, "fedavg"),
    Workload("lenet-8", "lognormal", 20, 50, "fedsmu"),
    Workload("lenet-8", "lognormal", 50, 10, "fedavg"),
    Workload("lenet-64", "equal", 50, 10, "fedavg", clients=100, samples=500),
    Workload("lenet-64", "lognormal", 20, 10, "fedsmu"),
    Workload("resnet18", "equal", 20, 10, "fedavg", clients=50),
    Workload("resnet18", "lognormal", 50, 10, "fedsmu", clients=50),
    Workload("lstm", "equal", 10, 10, "fedavg"),
    Workload("lstm", "lognormal", 20, 10, "fedsmu"),
    Workload("transformer", "lognormal", 10, 10, "fedavg"),
    Workload("transformer", "equal", 50, 50, "fedsmu"),
]

# Large models are left out where a round would take minutes.
COHORTS = {
    "linear": (10, 50, 500),
    "mlp-64": (10, 50, 500),
    "mlp-200": (10, 50, 500),
    "lenet-8": (10, 50, 500),
    "lenet-64": (10, 50),
    "resnet18": (10,),
    "lstm": (10, 50),
    "transformer": (10, 50),
}


def every_row() -> list[Workload]:
    """All rows: the grid, and those of QUICK that are not in it."""
    grid = [
        Workload(model, split, batch, cohort, method, 50 if model == "resnet18" else 500)
        for model, cohorts in COHORTS.items()
        for split, batch, cohort, method in product(
            ("equal", "lognormal"), (10, 20, 50), cohorts, ("fedavg", "fedsmu")
        )
    ]
    return grid + [row for row in QUICK if row not in grid]
