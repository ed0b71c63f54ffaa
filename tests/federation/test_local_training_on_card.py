"""What local training costs on a make-believe CUDA card: launches, and waits of the host."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.federation import graphs, trainer
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from tests.helpers.card import card

PARTITIONS = {"equal": {"kind": "iid"}, "unequal": {"kind": "dirichlet", "sigma": 0.7}}
CLIENTS = {"alone": [0], "together": [0, 1, 2]}
MODELS = {
    "mlp": {"name": "mlp", "hidden": [8, 8]},
    "lenet": {"name": "lenet", "filters": 3},
    "char_lstm": {"name": "char_lstm"},
    "dropout": {"name": "import:tests.helpers.models:dropout_cnn"},
}
# Launches of a step of FedSMU with clipping and weight decay, alone and together: as they are, and
# a few more. On a card each takes microseconds, whatever it computes.
BUDGETS = {"mlp": (55, 55), "lenet": (55, 95)}
REPLAYED = 12  # the same for steps that are replayed: the batch is made, and copied
WAITS = 9  # of a group of equal clients outside its steps: data, uploads, losses, checks
BATCH = 5


@cache
def images():
    return Synthetic((3, 16, 16), train=240, test=20).load("images", None, False)


@cache
def text():
    generator = np.random.default_rng(0)
    x, y = generator.integers(20, size=(260, 6)), generator.integers(20, size=260)
    return Dataset("text", x[:240], y[:240], x[240:], y[240:], 20, symbols=20)


def on_card(model, partition="equal", epochs=1, algorithm="fedavg"):
    """A problem to be trained on the card, and the first broadcast."""
    is_text = model == "char_lstm"
    config = {
        "data": {"clients": 12, "partition": PARTITIONS[partition], "augment": not is_text},
        "model": MODELS[model],
        "algorithm": {"name": algorithm},
        "local": {"epochs": epochs, "batch_size": BATCH},
    }
    problem = Problem.of(parse(config), text() if is_text else images())
    sent = Server(problem).open_round(1, False)
    compute = replace(problem.config.compute, gpus_per_actor=1.0)
    return replace(problem, config=replace(problem.config, compute=compute)), sent


def round_of(model, partition, clients, epochs, algorithm):
    """What the card counts in a round of these clients, and the steps of the longest of them."""
    problem, sent = on_card(model, partition, epochs, algorithm)
    sizes = problem.partition.sizes
    clients = sorted(clients, key=lambda client: (-sizes[client], client))
    with card() as used:
        worker = ClientWorker(problem)
        used.clear()
        worker.train(1, clients, sent, [None] * len(clients))
    return used, epochs * -(-int(sizes[clients].max()) // BATCH)


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("eager", [1, 1000], ids=["replayed", "eager"])
def test_no_step_waits_for_the_card(model, partition, clients, eager, monkeypatch):
    monkeypatch.setattr(graphs, "EAGER_STEPS", eager)
    one, three = (round_of(model, partition, CLIENTS[clients], e, "fedavg")[0] for e in (1, 3))
    assert one.waits == three.waits


def steps_of_fedsmu(model, clients):
    """What a round used; launches of the further steps of a longer one, and their number."""
    few, few_steps = round_of(model, "equal", CLIENTS[clients], 1, "fedsmu")
    many, many_steps = round_of(model, "equal", CLIENTS[clients], 3, "fedsmu")
    return few, many.launches - few.launches, many_steps - few_steps


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("model", BUDGETS)
def test_launches_and_other_waits_keep_to_a_budget(model, clients, monkeypatch):
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1000)
    few, launches, steps = steps_of_fedsmu(model, clients)
    assert 20 < launches.total() / steps <= BUDGETS[model][clients == "together"], launches
    assert few.waits.total() <= WAITS, few.waits


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("model", BUDGETS)
def test_a_replayed_step_is_a_few_launches(model, clients, monkeypatch):
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    _, launches, steps = steps_of_fedsmu(model, clients)
    assert launches["graph"] == steps
    assert launches.total() / steps <= REPLAYED, launches


def test_an_evaluation_waits_once_for_each_of_its_two_numbers(monkeypatch):
    problem, sent = on_card("lenet")
    monkeypatch.setattr(trainer, "EVALUATION_BATCH", 3)  # of 20 test samples
    with card() as used:
        worker = ClientWorker(problem)
        worker.evaluate(1, sent, 0, 1)  # decodes the message
        used.clear()
        worker.evaluate(1, sent, 0, 20)
    assert used.waits.total() == 2, used.waits
