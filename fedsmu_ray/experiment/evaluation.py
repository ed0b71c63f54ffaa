"""A trained model on a test set: that of its experiment, or another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch

from fedsmu_ray.config.plain_data import apply_overrides
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.experiment.model_file import Samples, TrainedModel
from fedsmu_ray.federation.evaluation import evaluate, means
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.isolation import isolated


def evaluate_model(model: TrainedModel, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Accuracy and loss of a model on a test set.

    data: overrides of its `data.*`; another `data.dataset` begins with the defaults of the others.
    On the same data, the same kind of hardware and the same versions the values are those of the
    run that trained the model. On a machine without a GPU the CPU evaluates.

    Images are normalized as those that the model was trained on. Raises ConfigError for data that
    does not fit the model.
    """
    config = _config(model, data or {})
    settings = config.data
    config.check_secrets()
    dataset = load_dataset(settings.dataset, settings.options, settings.folder(), settings.download)
    with isolated(config.seed):
        module = model.module()
        digest = dataset.digest()
        problem = Problem.of(config, _fitting(model, dataset, settings.dataset))
        constants = parameters.constants(module)
        probed = replace(problem.probed, constants=constants, reference=None)
        problem = replace(problem, probed=probed)
        scores = _scores(problem, parameters.flatten(module))
    return {
        "model_sha256": model.model_sha256,
        "dataset": settings.dataset,
        "data_digest": digest,
        "samples": len(dataset.test_y),
        **scores,
    }


def _config(model: TrainedModel, data: Mapping[str, Any]) -> Config:
    """The configuration of the evaluation; data: overrides.

    It has what decides how a model is evaluated; its method (FedAvg, whose server keeps nothing but
    the model) and the split play no part.
    """
    plain = model.plain_config()
    trained_on = plain["data"]
    if data.get("data.dataset", trained_on["dataset"]) != trained_on["dataset"]:
        trained_on = {}
    sections = ("seed", "model", "task", "local", "compute")
    kept = {key: plain[key] for key in sections if key in plain}
    rounds = {"rounds": plain["federation"]["rounds"], "cohort": 1}
    config = parse(
        apply_overrides(
            {**kept, "data": trained_on, "federation": rounds, "algorithm": {"name": "fedavg"}},
            data,
        )
    )
    one_client = replace(config.data.partition, kind="iid", sigma=0.0)
    compute = replace(config.compute, executor="inline")
    if compute.gpus_per_actor and not torch.cuda.is_available():
        compute = replace(compute, gpus_per_actor=0.0, precision="float32")
    split = replace(config.data, clients=1, validation=0.0, augment=False, partition=one_client)
    return replace(config, data=split, compute=compute)


def _fitting(model: TrainedModel, dataset: Dataset, name: str) -> Dataset:
    """The data set, normalized as that of the model; raises ConfigError if it does not fit."""
    takes, has = model.samples, Samples.of(dataset)
    facts = attrgetter("shape", "classes", "symbols", "targets")
    if facts(takes) != facts(has):
        raise ConfigError(
            [
                f"data.dataset = {name}: it has {_in_words(has)}, and {model.source} takes "
                f"{_in_words(takes)}; give data of that kind"
            ]
        )
    if (takes.mean is None) != (has.mean is None):
        kinds = ("numbers as they are", "images that are normalized")
        raise ConfigError(
            [
                f"data.dataset = {name}: its samples are {kinds[has.mean is not None]}, and "
                f"{model.source} takes {kinds[takes.mean is not None]}"
            ]
        )
    return replace(dataset, mean=takes.mean, std=takes.std)


def _in_words(samples: Samples) -> str:
    kind = f"{samples.symbols} tokens" if samples.symbols else "numbers"
    if samples.targets == "classes":
        return f"samples {list(samples.shape)} of {kind} in {samples.classes} classes"
    outputs = f"{samples.classes} outputs for targets of kind {samples.targets}"
    return f"samples {list(samples.shape)} of {kind}, and {outputs}"


def _scores(problem: Problem, x: torch.Tensor) -> dict[str, float]:
    """Accuracy and loss of the model x [P], as after the last round of its experiment."""
    executor = InlineExecutor()
    try:
        executor.load(problem)
        executor.restore_state({"x": x.numpy()})
        after = problem.config.federation.rounds + 1
        sent = executor.open_round(after, False)
        return means(problem, evaluate(problem, executor, after, sent))
    finally:
        executor.close()
