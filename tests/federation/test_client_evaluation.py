"""Fine-tuning: plain local SGD on the client's training samples, in batches of its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.errors import ClientError
from fedsmu_ray.federation.batches import Batches, Work
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.client_evaluation import evaluate_clients
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.numerics import streams
from fedsmu_ray.numerics.parameters import load_into
from tests.helpers.experiments import problem_of

LOCAL = {"epochs": 5, "batch_size": 8, "lr": 0.05, "weight_decay": 0.01, "clip_norm": 1.0}


def problem(**local):
    return problem_of(
        {"name": "fedavg"},
        local={**LOCAL, **local},
        evaluation={"clients": "all", "personalise": {"epochs": 2}},
    )


def tuned_by_hand(problem, client):
    """Loss after two epochs of autograd and plain SGD from the initial model."""
    data = DeviceData(problem.dataset, torch.device("cpu"))
    held = problem.partition.held_out_of(client)
    key = streams.keys(problem.config.seed, "personalisation", 0, torch.tensor(0))
    local = replace(problem.config.local, epochs=2)
    work = Work(local, int(key) & (2**63 - 1))
    batches = Batches.of(problem.partition, torch.tensor([client]), 3, work)
    module = load_into(problem.module(), problem.initial())
    steps = torch.optim.SGD(module.parameters(), lr=0.05)
    for index, size in zip(batches.index[0], batches.sizes[0].tolist()):
        inputs, targets = data.batch(index[:size])
        steps.zero_grad()
        cross_entropy(module(inputs), targets).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        with torch.no_grad():
            for p in module.parameters():
                p.grad += 0.01 * p
        steps.step()
    assert not np.isin(batches.index[0].numpy(), held.numpy()).any()
    with torch.no_grad():
        inputs, targets = data.batch(held)
        return float(cross_entropy(module(inputs), targets))


def values(problem, clients):
    worker, x = ClientWorker(problem), problem.initial()
    return {s.client: s.values for s in evaluate_clients(problem, worker.trainer, x, 3, clients)}


def test_a_model_is_tuned_by_plain_sgd_on_what_the_client_does_not_hold_out():
    own = problem()
    clients = own.ordered(3, [4, 9, 17])
    found = values(own, clients)
    for client in clients:
        wanted = tuned_by_hand(own, client)
        assert found[client]["personalised_loss"] == pytest.approx(wanted, rel=1e-4)
        assert found[client]["personalised_loss"] != found[client]["loss"]


def test_the_optimizer_and_the_epochs_of_training_play_no_part():
    plain, other = problem(), problem(epochs=1, optimizer={"name": "sgd", "momentum": 0.9})
    assert values(plain, [4]) == values(other, [4])


def test_batches_are_not_those_of_training():
    own = problem(epochs=2)
    worker, setting = ClientWorker(own), own.setting_at(3)
    trained = GroupSolver(worker.trainer, 3, torch.tensor([4]), setting).train(own.initial())
    found = evaluate_clients(own, worker.trainer, trained[0], 3, [4])[0].values
    assert found["loss"] != values(own, [4])[4]["personalised_loss"]


def test_a_client_whose_tuning_diverges_is_named():
    with pytest.raises(ClientError, match="round 3, client 4: .*local.lr"):
        values(problem(lr=1e30, clip_norm=None), [4])
