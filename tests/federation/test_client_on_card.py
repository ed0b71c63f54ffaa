"""Clients on a make-believe CUDA card: no tensor on the wrong device, and the bits of the CPU."""

from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation import graphs, trainer
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.models.batched import Batched
from fedsmu_ray.models.stack import Stack
from tests.conformance.test_conformance import CASES, IDS
from tests.helpers.card import card
from tests.helpers.experiments import inline

EQUAL, UNEQUAL = {"kind": "iid"}, {"kind": "dirichlet", "sigma": 0.7}


@cache
def digits():
    return load_dataset("digits", {}, None, False)


@cache
def images(channels=1, side=16):
    shape = (channels, side, side)
    return Synthetic(shape, train=120, test=20).load("images", None, False)


@cache
def text():
    generator = np.random.default_rng(0)
    x, y = generator.integers(20, size=(140, 6)), generator.integers(20, size=140)
    return Dataset("text", x[:120], y[:120], x[120:], y[120:], 20, symbols=20)


def problem_of(dataset=None, partition=UNEQUAL, together=4, precision="float32", **sections):
    """Rounds of five of twelve clients on the CPU."""
    config = {
        "data": {"clients": 12, "partition": partition},
        "model": {"hidden": [8]},
        "algorithm": {"name": "fedsmu"},
        "local": {"epochs": 2, "batch_size": 50},
        "federation": {"rounds": 2, "cohort": 5},
        "compute": {"clients_per_task": together, "precision": precision},
    }
    return Problem.of(parse({**config, **sections}), dataset or digits())


def on_the_card(problem, **compute):
    compute = replace(problem.config.compute, gpus_per_actor=1.0, **compute)
    return replace(problem, config=replace(problem.config, compute=compute))


def check_same_bits(problem):
    """Train and evaluate on the CPU and on the card, with replays of all steps of a shape but one.

    Steps of a module that is the user's code are never replayed.
    """
    is_replayed = not problem.config.model.is_users
    records, digest, _ = inline(problem)
    with card() as used, patch.object(graphs, "EAGER_STEPS", 1):
        found, found_digest, _ = inline(on_the_card(problem))
    assert used.launches.total() > 100  # it was the card that computed
    assert bool(used.launches["graph"]) == is_replayed
    assert found_digest == digest
    for one, other in zip(records, found, strict=True):
        assert one.train_loss == other.train_loss
        assert one.test_accuracy == other.test_accuracy
        # Attention of an evaluation is rounded as its memory is aligned.
        assert one.test_loss == pytest.approx(other.test_loss, rel=1e-6)


@pytest.mark.parametrize("name, options, lr, _", CASES, ids=IDS)
def test_every_method_has_the_bits_of_the_cpu(name, options, lr, _):
    local = {"epochs": 2, "batch_size": 50, "lr": lr}
    check_same_bits(problem_of(algorithm={"name": name, **options}, local=local))


@pytest.mark.parametrize("partition", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("together", [1, 2, 5])
def test_every_grouping_has_the_bits_of_the_cpu(partition, together):
    local = {"epochs": 2, "batch_size": 40, "weight_decay": 0.01, "clip_norm": 0.5}
    check_same_bits(problem_of(partition=partition, together=together, local=local))


FAMILIES = {
    "linear": ({"name": "linear"}, images),
    "lenet": ({"name": "lenet", "filters": 3}, images),
    "char_lstm": ({"name": "char_lstm"}, text),
    "dropout": ({"name": "import:tests.helpers.models:dropout_mlp"}, digits),
    "batch norm": (
        {"name": "import:tests.helpers.random_models:mixing", "options": {"how": "batch norm"}},
        digits,
    ),
    "resnet18_gn": ({"name": "resnet18_gn", "stem": "cifar"}, images),
    "vit_s": ({"name": "vit_s", "image_size": 8}, images),
}


def trained_together(problem):
    """The problem with the plan of a card: a CPU would train these clients one by one."""
    plan = replace(problem.probed.plan, batched=Batched(2, 0.0, Stack.of(problem.module())))
    return replace(problem, probed=replace(problem.probed, plan=plan))


SLOW = ("resnet18_gn", "vit_s")


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[pytest.mark.slow] * (f in SLOW)) for f in FAMILIES]
)
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of a CPU, batched
def test_every_model_has_the_bits_of_the_cpu(family, together, monkeypatch):
    model, dataset = FAMILIES[family]
    rounds = {"cohort": 3, "rounds": 1}
    problem = problem_of(dataset(), together=together, model=model, federation=rounds)
    with card():
        batched = ClientWorker(on_the_card(problem)).trainer.batched
    if batched:
        problem = trained_together(problem)
    monkeypatch.setattr(trainer, "memory_format", lambda *_: torch.channels_last)
    monkeypatch.setattr(trainer.attention, "simplify", lambda module: None)  # as on a card
    check_same_bits(problem)


@pytest.mark.parametrize("together", [1, 5])  # a CPU batches five clients in bfloat16, and no fewer
def test_bfloat16_has_the_bits_of_the_cpu(together):
    check_same_bits(problem_of(partition=EQUAL, together=together, precision="bfloat16"))


def test_images_are_augmented_with_the_bits_of_the_cpu():
    data = {"clients": 12, "partition": UNEQUAL, "augment": True}
    check_same_bits(problem_of(images(3), data=data, model={"name": "linear"}))


@pytest.mark.parametrize(
    "model, options, why",
    [
        ("models:adaptive_pooling", {}, "a training step .* does not have a deterministic impl"),
        ("random_models:fixed", {"place": "attribute"}, "a training step .* two devices"),
    ],
)
def test_a_model_that_a_gpu_refuses_is_refused_at_load(model, options, why):
    name = f"import:tests.helpers.{model}"
    problem = problem_of(model={"name": name, "options": options})
    inline(problem)  # a CPU can train it
    words = f"model.name = {name}: on a GPU: {why}.*register_buffer.*gpus_per_actor=0"
    with card(), pytest.raises(ConfigError, match=words):
        ClientWorker(on_the_card(problem))


def test_a_broken_gpu_is_not_taken_for_a_mistake_in_the_model(monkeypatch):
    problem = on_the_card(problem_of())

    def broken(*arguments, **options):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(GroupSolver, "train", broken)
    with card(), pytest.raises(torch.AcceleratorError, match="launch failure"):
        ClientWorker(problem)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("precision, products", [("float32", "ieee"), ("tf32", "tf32")])
def test_products_have_the_precision_of_the_configuration(precision, products, together):
    problem = problem_of(images(), model={"name": "lenet", "filters": 3}, together=together)
    sent = Server(problem).open_round(1, False)
    with card() as used:
        worker = ClientWorker(on_the_card(problem, precision=precision))
        assert worker.trainer.batched  # found out in float32, whatever the precision
        assert used.precisions == {"ieee", products}
        used.precisions.clear()
        worker.train(1, [1, 5, 6][:together], sent, [None] * together)
        assert used.precisions == {products}


@pytest.mark.parametrize("together", [1, 5])
@pytest.mark.parametrize(
    "local",
    [
        {"optimizer": {"momentum": 0.9, "nesterov": True}},
        {"optimizer": {"name": "adam"}},
        {"optimizer": {"name": "adamw"}, "weight_decay": 0.1, "clip_norm": 0.5},
        {"optimizer": {"name": "lion"}, "lr": 0.01},
        {"micro_batch_size": 7},
    ],
    ids=["momentum", "adam", "adamw", "lion", "micro-batches"],
)
def test_every_optimizer_has_the_bits_of_the_cpu(local, together):
    check_same_bits(problem_of(together=together, local={"epochs": 2, "batch_size": 20, **local}))
