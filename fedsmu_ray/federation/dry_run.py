"""A dry run: the model is trained and evaluated on a few samples before anything is started.

It runs the code of local training and evaluation, so that what these cannot do with a model of the
user's is found where it is read, and not in a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsmu_ray import plugins
from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.schema import Config
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.errors import ClientError, ConfigError
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.models import checks
from fedsmu_ray.models.modes import evaluating
from fedsmu_ray.models.probes import Plan, Probed
from fedsmu_ray.numerics import gpu, parameters
from fedsmu_ray.numerics.isolation import isolated
from fedsmu_ray.objectives.imported import ImportedLoss
from fedsmu_ray.objectives.losses import LOSSES, Loss, NextToken
from fedsmu_ray.objectives.scores import Scores
from fedsmu_ray.objectives.targets import IN_WORDS

_CURE = "write its forward so that loss(model(inputs), targets).backward() works"
_ONE = (
    "keep its axis (x.squeeze() drops it) and use no statistics of the batch (batch norm: set "
    "model.norm=group)"
)
_OTHER_SIZE = "choose another local.batch_size"
_ON_GPU = (
    "keep all its tensors in parameters and buffers (register_buffer), use no operation that "
    "torch.use_deterministic_algorithms refuses, or train on the CPU (compute.gpus_per_actor=0)"
)
_CPU = torch.device("cpu")
_SETTING = Setting((1,), clients=4, cohort=2, steps=1, lr=0.0)  # which local SGD does not read


def check_targets(config: Config, dataset: Dataset, loss: Loss) -> None:
    """Raise ConfigError unless the loss is for such targets as the data set has."""
    task, kind = config.task, dataset.targets
    where = f"task.loss = {task.loss}: data.dataset = {config.data.dataset}"
    if loss.targets not in (None, kind):
        able = [name for name, cls in LOSSES.items() if cls.targets == kind]
        raise ConfigError(
            [f"{where} has {IN_WORDS[kind]} as targets; use task.loss={' or '.join(able)}"]
        )
    weights = task.class_weights
    if weights is not None and len(weights) != dataset.classes:
        raise ConfigError(
            [
                f"task.class_weights has {len(weights)} numbers, and data.dataset = "
                f"{config.data.dataset} {dataset.classes} classes; give one for each"
            ]
        )
    if isinstance(loss, NextToken):
        least = min(int(dataset.train_y.min()), int(dataset.test_y.min()))
        if least < 0 and least != loss.ignore_index:
            raise ConfigError(
                [
                    f"{where} has the target {least}, and task.ignore_index = "
                    f"{loss.ignore_index}; set it to {least}, or correct the targets"
                ]
            )
    Scores(loss, kind, dataset.classes, task.metrics)  # raises for metrics of other targets


def checked_loss(loss: Loss, module: nn.Module, few: tuple[Tensor, Tensor]) -> Loss:
    """The loss with what trying it on a few samples tells; raises ConfigError.

    few: inputs and targets. The module is used in evaluation.
    """
    if not isinstance(loss, ImportedLoss):
        return loss
    inputs, targets = few
    with isolated(0), torch.no_grad(), evaluating(module):
        return loss.checked(module(inputs), targets)


def check_model(
    module: nn.Module,
    other: nn.Module,
    config: Config,
    dataset: Dataset,
    split: Partition,
    probed: Probed,
    loss: Loss,
) -> Plan:
    """Train and evaluate a module on a few samples of the data.

    The module has to be new, and cannot be used afterwards: its forward may change it. other:
    another one, which gets other parameters. probed: what is known of them. Returns how the module
    computes fastest on the CPU. Raises ConfigError, which names `model.name`, for whatever goes
    wrong.
    """
    where = f"model.name = {config.model_name}"
    if config.local.micro_batch_size and not probed.rows_independent:
        raise ConfigError(
            [
                f"local.micro_batch_size = {config.local.micro_batch_size}: in {where} the samples "
                "of a batch affect each other, so its gradient is no sum over parts; remove it"
            ]
        )
    before, x = checks.buffers(module), parameters.flatten(module)
    with plugins.reported(f"{where}: training it", _CURE):
        trainer = _trainer(module, config, dataset, probed, loss)
    inputs = trainer.data.test_batch(0, 1)[0]
    client = _client_with_a_batch_of_one(split.sizes, config.local.batch_size)
    if config.local.batch_size > 1:
        _train(trainer, x, [0, 1], where)
        checks.check_buffers(module, before, where)
    if client is not None:
        one = (
            f"{where}: with a batch of one sample, which client {client} has "
            f"(local.batch_size = {config.local.batch_size})"
        )
        cure = f"{_ONE}, or {_OTHER_SIZE}"
        checks.check_outputs(module, inputs, dataset.output_shape, one, cure)
        _train(trainer, x, [2, 3], one)
    tests = len(dataset.test_y)
    scores = Scores(loss, dataset.targets, dataset.classes)
    _evaluate(trainer, x, min(2, tests), scores, where)
    if alone := _evaluated_alone(trainer, tests, split):
        one = f"{where}: with a batch of one sample, {alone}"
        checks.check_outputs(module, inputs, dataset.output_shape, one, _ONE)
        _evaluate(trainer, x, 1, scores, one)
    checks.check_buffers(module, before, where)
    _check_loading(trainer, other, x, where)
    return trainer.plan


def check_on_gpu(
    module: nn.Module, config: Config, dataset: Dataset, probed: Probed, loss: Loss
) -> Plan:
    """Train and evaluate a module that is on a GPU on a few samples of the data.

    `check_model` runs on the CPU, where it cannot see what a GPU refuses. The module has to be new,
    and cannot be used afterwards. probed: what is known of it. Returns how the module computes
    fastest on the GPU. Raises ConfigError, which names `model.name`, and passes on errors after
    which a process can no longer use its GPU.
    """
    where, few = f"model.name = {config.model_name}: on a GPU", slice(0, 2)
    x = parameters.flatten(module)
    dataset = replace(
        dataset,
        train_x=dataset.train_x[few],
        train_y=dataset.train_y[few],
        test_x=dataset.test_x[few],
        test_y=dataset.test_y[few],
    )
    try:
        with plugins.reported(f"{where}, training it", _ON_GPU):
            trainer = _trainer(module, config, dataset, probed, loss, x.device)
        _train(trainer, x, [0, 1], where, _ON_GPU)
        scores = Scores(loss, dataset.targets, dataset.classes)
        _evaluate(trainer, x, len(dataset.test_y), scores, where, _ON_GPU)
        return trainer.plan
    except ConfigError as error:
        if error.__cause__ is not None and gpu.is_broken(error.__cause__):
            raise error.__cause__ from None
        raise


def _trainer(
    module: nn.Module,
    config: Config,
    dataset: Dataset,
    probed: Probed,
    loss: Loss,
    device: torch.device = _CPU,
) -> Trainer:
    """The trainer of an experiment with four clients, of 2, 2, 1 and 1 samples.

    At a learning rate of 0 a training step has to leave a model as it is, whatever the data.
    """
    sizes = torch.tensor([2, 2, 1, 1])
    samples = torch.arange(2) % len(dataset.train_y)
    local = replace(config.local, epochs=1, steps=None, batch_size=2, lr=0.0)
    return Trainer(
        module,
        DeviceData(dataset, device),
        Partition(samples, torch.zeros_like(sizes), sizes),
        local,
        config.seed,
        config.data.augment,
        config.compute.precision,
        probed,
        config.model.is_users or isinstance(loss, ImportedLoss),
        loss,
    )


def _client_with_a_batch_of_one(sizes: Tensor, batch_size: int) -> int | None:
    """The first client that has a batch of one sample; None if there is none."""
    clients = (sizes % batch_size == 1 % batch_size).nonzero()
    return int(clients[0]) if len(clients) else None


def _evaluated_alone(trainer: Trainer, tests: int, split: Partition) -> str | None:
    """Which sample is evaluated in a batch of its own; None if none is."""
    sets = {f"the last of the {tests} test samples": tests}
    for client, size in enumerate(split.held_out_sizes.tolist()):
        sets[f"the last one that client {client} holds out (evaluation.share)"] = size
    for sample, size in sets.items():
        first, end = (trainer.evaluation_batches(0, size) or [(0, 0)])[-1]
        if end - first == 1:
            return sample
    return None


def _train(
    trainer: Trainer, x: Tensor, clients: Sequence[int], where: str, cure: str | None = None
) -> None:
    """Train the first of these clients alone, and all of them in one group."""
    for group in (clients[:1], clients):
        solver = GroupSolver(trainer, 1, torch.tensor(group), _SETTING)
        try:
            with plugins.reported(f"{where}: a training step", cure or _cure(trainer.module)):
                y = solver.train(x)
        except ClientError as error:
            raise ConfigError(
                [
                    f"{where}: the loss of its first training samples, or the gradient, is NaN or "
                    f"Inf at its initial parameters; {_CURE}, and initialize its parameters"
                ]
            ) from error
        if not torch.equal(y, x.expand_as(y)):
            raise _changes_parameters(trainer.module, where)


def _evaluate(
    trainer: Trainer,
    x: Tensor,
    samples: int,
    scores: Scores,
    where: str,
    cure: str = "correct the code there",
) -> None:
    with plugins.reported(f"{where}: its evaluation", cure):
        trainer.score(x, 0, samples, scores)
    if not torch.equal(parameters.flatten(trainer.module), x):
        raise _changes_parameters(trainer.module, where)


def _changes_parameters(module: nn.Module, where: str) -> ConfigError:
    copies = "use changed copies there (weight.clamp(-1, 1), not weight.data.clamp_(-1, 1))"
    cure = _cure(module, copies)
    return ConfigError([f"{where}: it changes its parameters in forward; {cure}"])


def _check_loading(trainer: Trainer, other: nn.Module, x: Tensor, where: str) -> None:
    """Raise ConfigError unless a module that is given other parameters computes with them."""
    y, inputs = 0.9 * x + 0.01, trainer.data.test_batch(0, 2)[0]
    trainer.load(trainer.layout.views(y))
    # Equal seeds: a model may draw in evaluation, too.
    with isolated(0), torch.no_grad(), evaluating(trainer.module):
        trained = trainer.module(inputs.clone())
    with isolated(0), torch.no_grad(), evaluating(other):
        loaded = parameters.load_into(other, y)(inputs)
    if not torch.allclose(trained, loaded, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigError(
            [
                f"{where}: its forward uses copies of its parameters (.data or .detach() of a "
                "layer's weight), which training cannot reach; use its attributes (self.weight)"
            ]
        )


def _cure(module: nn.Module, otherwise: str = _CURE) -> str:
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            if layer.max_norm is not None:
                return (
                    "an Embedding with max_norm changes its weights in forward; leave max_norm out "
                    "and normalize what the layer returns"
                )
            if layer.sparse:
                return "gradients are dense here; use Embedding(sparse=False)"
    return otherwise
