"""What an experiment trains, as every process of it sees it: configuration, data and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fedsmu_ray.algorithms.base import Method, Setting
from fedsmu_ray.algorithms.checks import check_method
from fedsmu_ray.config.schema import Config
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.datasets.split import split
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.batches import Work
from fedsmu_ray.federation.cohort import SAMPLINGS, check_sends_model, descending, imported_cohort
from fedsmu_ray.federation.dry_run import check_model, check_targets, checked_loss
from fedsmu_ray.federation.schedules import rate_factor
from fedsmu_ray.models import checks, probes, registry
from fedsmu_ray.models.costs import activations
from fedsmu_ray.models.probes import Probed
from fedsmu_ray.numerics import isolation, parameters, streams
from fedsmu_ray.objectives.losses import CrossEntropy, Loss
from fedsmu_ray.objectives.scores import Scores
from fedsmu_ray.wire.accumulators import WEIGHT_BOUND
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32

SHARD_BYTES = 4 << 20  # client states that share one object
CACHED_PARAMETERS = 1 << 20  # of a group's models, which a core's cache can hold
TASK_MULTIPLICATIONS = 3e7  # of a group's forward passes (some 5 ms): less is not worth a task
GROUPS_PER_ROUND = 4  # that keep several actors busy
GPU_BYTES = 8 << 30  # of a card's memory that its groups may fill: half of a small card
GPU_VECTORS = 8  # [P] of a client: model, gradient, state, upload, and copies of them


@dataclass(frozen=True)
class Problem:
    """Everything that is fixed before round 1.

    It is plain data, which is sent to the actors once per experiment.
    """

    config: Config
    dataset: Dataset
    partition: Partition
    probed: Probed = field(default_factory=Probed)  # what `of` found out about the model
    profiled: bool = False  # whether its processes measure where the time goes
    loss: Loss = CrossEntropy()

    @staticmethod
    def of(config: Config, dataset: Dataset | None = None) -> Problem:
        """Load the data (unless given), split it, and check model and method.

        Raises ConfigError.
        """
        config.check_secrets()
        data = config.data
        if dataset is None:
            dataset = load_dataset(data.dataset, data.options, data.folder(), data.download)
        if data.augment and not dataset.is_image:
            raise ConfigError(
                [f"data.augment = true: {data.dataset} has no uint8 images to augment; remove it"]
            )
        held_out = config.evaluation.held_out
        parts = split(dataset, data.partition, data.clients, config.seed, data.validation, held_out)
        config.evaluation.check_clients(int(parts.held_out_sizes.count_nonzero()))
        problem = Problem(config, dataset, parts, loss=config.task.build_loss())
        check_targets(config, dataset, problem.loss)
        module, other = problem.module(), problem.module()
        checks.check_separate(module, other, config.model_name)
        checks.check(module, problem.sample, dataset.output_shape, config.model_name)
        problem = replace(problem, loss=checked_loss(problem.loss, module, problem.few()))
        probed = replace(problem._probe(other), sizes=parameters.Layout.of(module).sizes)
        plan = check_model(other, module, config, dataset, parts, probed, problem.loss)
        problem = replace(problem, probed=replace(probed, plan=plan))
        rounds = range(1, config.federation.rounds + 1) if config.local.schedule.is_set else (1,)
        slowest = min(map(problem.setting_at, rounds), key=lambda setting: setting.lr)
        check_method(config.method_name, problem.method, slowest)
        if config.federation.imported_sampling:
            problem.cohort(1)  # which may raise
        if config.federation.chooses:
            check_sends_model(problem.downlink, config.method_name)
        if problem.weights is not None:
            _check_weights(problem.weights)
        return problem

    def with_dataset(self, dataset: Dataset | None) -> Problem:
        """The same problem with another copy of the data set, or without it (None).

        Without it, the data set is sent separately.
        """
        return replace(self, dataset=cast(Dataset, dataset))

    def module(self) -> nn.Module:
        """The model, freshly initialized from the seed, with the constants of the experiment.

        Raises ConfigError if it is not the model that `of` has built.
        """
        return self.probed.restored(self._build(), self.config.model_name)

    def _build(self) -> nn.Module:
        config, data = self.config, self.dataset
        return registry.build(
            config.model_name,
            config.model,
            data.shape,
            data.classes,
            config.seed,
            data.symbols,
            data.targets == "tokens",
            config.task.output,
        )

    def _probe(self, module: nn.Module) -> Probed:
        """What is known of the model; module: a new one."""
        if not self.config.model.is_users:
            return Probed(parameters.constants(module))
        index = np.linspace(0, len(self.dataset.train_y) - 1, probes.SAMPLES).astype(np.int64)
        few = replace(
            self.dataset,
            train_x=self.dataset.train_x[index],
            train_y=self.dataset.train_y[index],
            test_x=self.dataset.test_x[:0],
        )
        data = DeviceData(few, torch.device("cpu"))
        return probes.probe(
            self._build, data.batch(torch.arange(probes.SAMPLES))[0], self.config.model_name
        )

    @property
    def runs_user_code(self) -> bool:
        """Whether model, method or loss are the user's and may draw from global generators."""
        names = self.config.method_name, self.config.task.loss
        return self.config.model.is_users or any(name.startswith("import:") for name in names)

    def seed_generators(self, stream: str, round: int, client: int = 0) -> None:
        """Seed what user code may draw from: a function of seed, stream, round and client.

        Without user code nothing is done, since it takes as long as a client of a tiny model.
        """
        if self.runs_user_code:
            key = streams.keys(self.config.seed, stream, round, torch.tensor([client]))
            isolation.seed_generators(int(key))

    def cohort(self, round: int) -> list[int]:
        """The clients that are sampled for a round (from 1), ascending.

        With power-of-choice they are the candidates.
        """
        federation = self.config.federation
        count = federation.sampled(self.config.data.clients)
        name, given = federation.sampling, (self.config.seed, round, self.partition.sizes)
        if function := federation.imported_sampling:
            return imported_cohort(name, function, *given, count)
        return SAMPLINGS[name](*given, count)

    @property
    def work(self) -> Work:
        """How long clients train."""
        return Work(self.config.local, self.config.seed)

    def local_steps(self, round: int) -> Tensor:
        """K_i of all clients in a round, int64 [m]."""
        sizes = self.partition.sizes
        return self.work.steps(round, torch.arange(len(sizes)), sizes)

    def steps_of(self, round: int, clients: Sequence[int]) -> tuple[int, ...]:
        """K_i of some clients in a round."""
        return _some(self.local_steps(round), clients)

    def ordered(self, round: int, clients: list[int]) -> list[int]:
        """Clients with most samples first, or, where steps are drawn, with most steps.

        Cut into groups, clients that train equally long train together, and the longest tasks begin
        first.
        """
        clients = descending(clients, self.partition.sizes)
        return descending(clients, self.local_steps(round)) if self.work.is_drawn else clients

    @property
    def held_out(self) -> tuple[int, int]:
        """How many samples are for validation, and how many those of the test set make it."""
        validation = len(self.partition.validation)
        return validation, validation + len(self.dataset.test_y)

    @property
    def sample(self) -> Tensor:
        """Two test samples as the model sees them."""
        return self.few()[0]

    def few(self) -> tuple[Tensor, Tensor]:
        """Two test samples as the model sees them, and their targets."""
        few = replace(
            self.dataset, train_x=self.dataset.train_x[:0], test_x=self.dataset.test_x[:2]
        )
        return DeviceData(few, torch.device("cpu")).test_batch(0, 2)

    def new_scores(self, device: torch.device | str = "cpu") -> Scores:
        """For an evaluation, or a part of one."""
        data, metrics = self.dataset, self.config.task.metrics
        return Scores(self.loss, data.targets, data.classes, metrics, device)

    def initial(self) -> Tensor:
        """The initial model vector x_1, float32 [P]."""
        return parameters.flatten(self.module())

    @property
    def method(self) -> Method:
        """The federated method with its options."""
        return self.config.algorithm

    @cached_property
    def weights(self) -> Tensor | None:
        """The weights of all clients in means of uploads, int64 [m]; None if they are equal.

        Their numbers of samples over the greatest common divisor of these, so that clients of equal
        size have weight 1.
        """
        if self.config.federation.weighting == "uniform":
            return None
        sizes = self.partition.sizes
        return sizes // int(np.gcd.reduce(sizes.numpy()))

    def weights_of(self, clients: Sequence[int]) -> tuple[int, ...] | None:
        """The weights of some clients; None if they are equal."""
        return None if self.weights is None else _some(self.weights, clients)

    @cached_property
    def setting(self) -> Setting:
        """What the method may know of this experiment."""
        config, sizes = self.config, self.probed.sizes
        steps = self.work.most_steps(int(self.partition.sizes.max()))
        return Setting(sizes, config.data.clients, config.federation.cohort, steps, config.local.lr)

    def setting_at(self, round: int) -> Setting:
        """The same in a round: with its local learning rate."""
        local, rounds = self.config.local, self.config.federation.rounds
        if not local.schedule.is_set:
            return self.setting
        rate = local.lr * rate_factor(local.schedule, round, rounds)
        return replace(self.setting, lr=rate)

    def method_at(self, round: int) -> Method:
        """The method in a round: with its server rate."""
        federation, method = self.config.federation, self.method
        if not federation.server_schedule.is_set:
            return method
        assert method.server_rate is not None  # checked with the configuration
        factor = rate_factor(federation.server_schedule, round, federation.rounds)
        rate = {method.server_rate: factor * getattr(method, method.server_rate)}
        return replace(method, **rate)

    @property
    def dim(self) -> int:
        """d, the number of trainable parameters."""
        return self.setting.dim

    @cached_property
    def uplink(self) -> Fields:
        """Fields of a client's message."""
        return self.method.uplink(self.setting)

    @cached_property
    def downlink(self) -> Fields:
        """Fields of the server's broadcast."""
        return self.method.downlink(self.setting)

    @cached_property
    def has_feedback(self) -> bool:
        """Whether the server sends clients of this method feedback after its step."""
        return bool(self.method.feedback(self.setting))

    def feedback_fields(self, participants: int) -> Fields:
        """Fields of the server's feedback after a round with so many participants."""
        return self.method.feedback(replace(self.setting, cohort=participants))

    @cached_property
    def model_fields(self) -> Fields:
        """Fields of the message to evaluate from: the broadcast's, if it holds the model."""
        return self.downlink if "x" in self.downlink else {"x": Float32()}

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of a client's state; 0 for stateless clients."""
        state = self.method.client_init(torch.empty(self.dim, device="meta"))
        return sum(t.nbytes for t in state.values())

    @cached_property
    def shard_clients(self) -> int | None:
        """Clients whose states share one object (a shard), or None for stateless clients.

        Large states are objects of their own, so that one client's can move or be deleted alone;
        those of a group share one of at most SHARD_BYTES, so that a thousand of them do not cost a
        thousand objects.
        """
        return max(1, SHARD_BYTES // self.state_bytes) if self.state_bytes else None

    @cached_property
    def group_size(self) -> int:
        """Clients per group. A function of the configuration alone, never of the number of actors.

        Which clients are trained together decides how their sums are rounded. On a CPU, small
        models gain from training together as long as their parameters fit a core's cache. Stacks of
        linear layers that do not train together still share what a task costs, unless states would
        have to be copied to share it. A convolution fills a core with one client.
        """
        compute, cohort = self.config.compute, self.config.federation.cohort
        if compute.clients_per_task:
            return min(compute.clients_per_task, cohort)
        if compute.gpus_per_actor:
            return self._group_size_on_gpu
        plan = self.probed.plan
        if plan is None or plan.batched is None:
            return 1
        batched = plan.batched
        if batched.least == inf and (not batched.stack or self.shard_clients):
            return 1
        samples = self.work.mean_samples(float(self.partition.sizes.float().mean()))
        client = max(1.0, batched.products * samples)
        wanted = max(-(-cohort // GROUPS_PER_ROUND), int(TASK_MULTIPLICATIONS / client))
        return max(1, min(CACHED_PARAMETERS // self.dim, cohort, wanted))

    @property
    def _group_size_on_gpu(self) -> int:
        """One group for every actor that has room on a card, if it fits the actor's memory.

        A launch takes as long for one client as for many, until they fill the card.
        """
        share, cohort = min(1.0, self.config.compute.gpus_per_actor), self.config.federation.cohort
        kept = activations(self.module(), self.sample) * self.config.local.batch_size
        # As much again for what the backward pass computes from it.
        client = GPU_VECTORS * 4 * self.dim + 2 * kept
        return max(1, min(-(-cohort // int(1 / share)), int(share * GPU_BYTES / client)))


def _some(numbers: Tensor, clients: Sequence[int]) -> tuple[int, ...]:
    """The numbers, int64 [m], of some clients."""
    return tuple(numbers[torch.tensor(clients, dtype=torch.int64)].tolist())


def _check_weights(weights: Tensor) -> None:
    """Raise ConfigError for weights, int64 [m], whose sums counters of votes cannot hold."""
    total = int(weights.sum())
    if total >= WEIGHT_BOUND:
        raise ConfigError(
            [
                f"federation.weighting = samples: the clients' weights add up to {total}, but "
                f"counters of votes hold less than {WEIGHT_BOUND}; use uniform, or fewer samples"
            ]
        )
