"""The server's model on the samples that clients hold out, as it is and fine-tuned by each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from math import nan

import torch
from torch import Tensor

from fedsmu_ray.config.optimizer import OptimizerConfig
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import ClientScore
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import streams
from fedsmu_ray.objectives.scores import Scores


def evaluate_clients(
    problem: Problem, trainer: Trainer, x: Tensor, round: int, clients: Sequence[int]
) -> list[ClientScore]:
    """Loss, and accuracy if there is one, of the model x [P] for each client.

    round: after which x is the model. clients: in descending order of their training samples. With
    `evaluation.personalise` also those of what local training makes of x, as `personalised_loss`
    and `personalised_accuracy`. Raises ClientError for a client for which that diverges.
    """
    found = [_values(problem, trainer, x, round, client) for client in clients]
    epochs = problem.config.evaluation.personalise.epochs
    if epochs is not None:
        own = _fine_tuned(problem, trainer, x, round, clients, epochs)
        for values, client, y in zip(found, clients, own):
            again = _values(problem, trainer, y, round, client)
            values |= {f"personalised_{name}": value for name, value in again.items()}
    sizes = trainer.partition.held_out_sizes
    return [ClientScore(c, int(sizes[c]), values) for c, values in zip(clients, found)]


def training_losses(
    problem: Problem, trainer: Trainer, x: Tensor, round: int, clients: Sequence[int]
) -> list[ClientScore]:
    """The loss of the model x [P] on the samples that each client trains on, as they are."""
    found = []
    for client in clients:
        problem.seed_generators("training losses", round, client)
        index = trainer.partition.of(client)
        loss = _scored(problem, trainer, x, index).get("loss", nan)
        found.append(ClientScore(client, len(index), {"loss": loss}))
    return found


def _values(
    problem: Problem, trainer: Trainer, x: Tensor, round: int, client: int
) -> dict[str, float]:
    """Loss and accuracy of x [P] on the samples that a client holds out, as by `_scored`."""
    problem.seed_generators("client evaluation", round, client)
    return _scored(problem, trainer, x, trainer.partition.held_out_of(client))


def _scored(problem: Problem, trainer: Trainer, x: Tensor, index: Tensor) -> dict[str, float]:
    """Loss and accuracy of x [P] on samples, int64 [N], without what these do not define.

    That may be both, if no target of them counts.
    """
    data = problem.dataset
    scores = Scores(problem.loss, data.targets, data.classes, device=trainer.data.device)
    trainer.score_samples(x, index, scores)
    score = scores.result()
    values = scores.totals([score])
    return values if score.weight else {n: v for n, v in values.items() if n != "loss"}


def _fine_tuned(
    problem: Problem, trainer: Trainer, x: Tensor, round: int, clients: Sequence[int], epochs: int
) -> Iterator[Tensor]:
    """The models [P] that clients make of x [P] by plain local SGD on their training samples.

    What is drawn (batches, augmentation, dropout) is that of another seed, so that it is not what
    they train on in any round.
    """
    tuner = copy(trainer)  # with the same module
    tuner.local = replace(trainer.local, epochs=epochs, steps=None, optimizer=OptimizerConfig())
    key = streams.keys(trainer.seed, "personalisation", 0, torch.tensor(0))
    tuner.seed = int(key) & ((1 << 63) - 1)
    setting = problem.setting_at(round)
    problem.seed_generators("personalisation", round, clients[0])
    solver = GroupSolver(tuner, round, torch.tensor(clients), setting, setting.lr)
    yield from solver.train(x)
