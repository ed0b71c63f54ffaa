"""What an experiment trains, as every process of it sees it: configuration, data, split, and what follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.algorithms.registry import Method
from fedsmu_ray.config.validation import Config
from fedsmu_ray.datasets.dataset import Dataset, DeviceData
from fedsmu_ray.datasets.partition import Partition, partition
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import parameters
from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.message import Fields

SHARD_BYTES = 1 << 20


@dataclass(frozen=True)
class Problem:
    """Everything that is fixed before round 1. Plain data: it travels to the actors once per experiment."""

    config: Config
    dataset: Dataset
    partition: Partition

    @staticmethod
    def of(config: Config, dataset: Dataset | None = None) -> Problem:
        """Load the data (unless given), split it, and check that the model fits it; raises ConfigError."""
        dataset = dataset or load_dataset(config.data)
        data = config.data
        if data.augment and not dataset.is_image:
            raise ConfigError(
                [
                    f"data.augment = true: {data.dataset} has no uint8 images to flip and crop; remove it"
                ]
            )
        split = partition(
            data.partition,
            dataset.train_y,
            dataset.classes,
            data.clients,
            config.seed,
            dataset.clients,
        )
        problem = Problem(config, dataset, split)
        registry.check(problem.module(), problem.sample, dataset.classes, config.model.name)
        return problem

    def module(self) -> nn.Module:
        """The model, freshly initialised from the seed."""
        data = self.dataset
        return registry.build(
            self.config.model, data.shape, data.classes, self.config.seed, data.symbols
        )

    @property
    def sample(self) -> Tensor:
        """Two test samples as the model sees them."""
        few = replace(
            self.dataset, train_x=self.dataset.train_x[:0], test_x=self.dataset.test_x[:2]
        )
        return DeviceData(few, torch.device("cpu")).test_batch(0, 2)[0]

    def initial(self) -> Tensor:
        """The initial model vector x_1, float32 [P]."""
        return parameters.flatten(self.module())

    @property
    def method(self) -> Method:
        return self.config.algorithm

    @cached_property
    def setting(self) -> Setting:
        """What the method may know of this experiment."""
        config, local = self.config, self.config.local
        steps = local.epochs * -(-int(self.partition.sizes.max()) // local.batch_size)
        sizes = parameters.Layout.of(self.module()).sizes
        return Setting(sizes, config.data.clients, config.federation.cohort, steps, local.lr)

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

    @property
    def replies(self) -> bool:
        """Whether clients of this method hear the outcome of a round."""
        return hasattr(self.method, "reply")

    def reply(self, answered: int) -> Fields:
        """Fields of the server's reply after a round in which `answered` clients took part, for a method that has one."""
        return self.method.feedback(replace(self.setting, cohort=answered))

    @cached_property
    def model_fields(self) -> Fields:
        """Fields of the message that evaluation takes the model from: the broadcast's, if it holds the model."""
        return self.downlink if "x" in self.downlink else {"x": Float32()}

    @cached_property
    def shard_clients(self) -> int | None:
        """Clients whose states share one object, or None for a stateless method.

        Large states are objects of their own, so that one client's can move or be dropped alone; tiny ones share
        an object of about a megabyte, so that a thousand of them do not cost a thousand objects.
        """
        state = self.method.client_init(torch.empty(self.dim, device="meta"))
        nbytes = sum(t.nbytes for t in state.values())
        return max(1, SHARD_BYTES // nbytes) if nbytes else None

    @cached_property
    def group_size(self) -> int:
        """Clients per task. A function of the configuration alone, never of the number of actors: which clients
        are trained together decides how their sums are rounded.

        Small models gain from training together (as long as their parameters fit a core's cache), but four groups a
        round keep several actors busy, unless the groups would be so small that a task is mostly overhead; a convolution
        fills a core with one client.
        """
        compute, cohort = self.config.compute, self.config.federation.cohort
        if compute.clients_per_task:
            return min(compute.clients_per_task, cohort)
        if not compute.gpus_per_actor and not registry.batches_clients(self.module(), self.sample):
            return 1
        fitting = (1 << 20) // self.dim if not compute.gpus_per_actor else cohort
        worthwhile = (1 << 16) // self.dim
        return max(1, min(fitting, cohort, max(-(-cohort // 4), worthwhile)))
