"""A model with the data that it trains and is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.federation.batches import Batches, Work
from fedsmu_ray.federation.graphs import EagerSteps, StepGraphs, tell
from fedsmu_ray.federation.updates import Cut, Update
from fedsmu_ray.models import attention
from fedsmu_ray.models.batched import Batched, Pieces, batched, widened
from fedsmu_ray.models.conv_stack import ConvStack
from fedsmu_ray.models.costs import memory_format, positions
from fedsmu_ray.models.modes import evaluating
from fedsmu_ray.models.probes import Plan, Probed
from fedsmu_ray.models.windows import Windows
from fedsmu_ray.numerics.parameters import Layout, gradient, own
from fedsmu_ray.objectives.losses import SMALLEST, CrossEntropy, Loss
from fedsmu_ray.objectives.scores import Scores

EVALUATION_BATCH = 500  # samples that are evaluated at once


class Trainer:
    """Everything local training needs that does not change over rounds; one per process.

    The module serves all clients: one that trains alone has its model in the module's parameters.
    """

    def __init__(
        self,
        module: nn.Module,
        data: DeviceData,
        partition: Partition,
        local: LocalConfig,
        seed: int,
        augment: bool = False,
        precision: str = "float32",
        probed: Probed | None = None,
        is_users: bool = False,
        loss: Loss = CrossEntropy(),  # noqa: B008
    ) -> None:
        """Take what all rounds share.

        augment: whether training images are flipped and cropped. precision: of matrix products and
        convolutions; weights, gradients and everything that is sent stay float32. probed: what is
        known of the module; what is not is found out, see `plan`. is_users: whether it is the
        user's code.
        """
        self.module, self.data, self.partition, self.local = module, data, partition, local
        self.seed, self.augment, self.is_users, self.loss = seed, augment, is_users, loss
        bfloat16 = precision == "bfloat16"
        self.autocast = torch.autocast(data.device.type, torch.bfloat16, enabled=bfloat16)
        self.probed = probed or Probed()
        few, targets = data.test_batch(0, 2)
        plan = self.probed.plan
        if plan and plan.device != data.device.type:
            plan = None
        seen = plan.positions if plan else positions(module, few)
        self.format = memory_format(seen, local.batch_size)
        self.layout, self.params = Layout.of(module), own(module, self.format)
        self.plan = plan or Plan(data.device.type, seen, self._batched(few, targets, bfloat16))
        self.batched = None if local.micro_batch_size else self.plan.batched
        self.gradient = self.batched.gradient(module, loss, bfloat16) if self.batched else None
        self.windows = self._windows(few)
        plain = data.device.type == "cpu" and not bfloat16 and not self.windows
        self.conv_stack = ConvStack.of(module, loss) if plain else None
        if data.device.type == "cpu":
            attention.simplify(module)
        self.graphs = self._graphs() if data.device.type == "cuda" else None

    def _batched(self, inputs: Tensor, targets: Tensor, bfloat16: bool) -> Batched | None:
        """`batched.batched`; None for a model that the padding of a batch would affect."""
        if not self.probed.rows_independent:
            return None
        return batched(self.module, inputs, bfloat16, self.loss, targets)

    def _windows(self, inputs: Tensor) -> Windows | None:
        """Windows of the module's convolutions, if there are some.

        They hold for images of one size: a user's module may be given others, or make them.
        """
        if self.is_users or inputs.device.type != "cpu":
            return None
        windows = Windows(self.module, inputs, self.params)
        return windows if windows.layers else None

    def _graphs(self) -> StepGraphs | None:
        """Graphs of steps, unless the module can do what no capture shows."""
        if self.is_users and not (self.batched and self.batched.stack):
            tell("model.name is an import:, whose forward may draw or branch differently each time")
            return None
        return StepGraphs(self.params)

    def trains_together(self, steps: Tensor) -> bool:
        """Whether clients with so many local steps, int64 [C], are trained together."""
        if self.batched is None:
            return False
        return int(steps.sum()) >= self.batched.least * int(steps.max())

    def cut(self, together: bool, update: Update | None = None) -> Cut:
        """How an update goes over the vectors of one client, or of several that train together."""
        whole = together and self.data.device.type == "cuda"
        keeps = update is not None and update.keeps and not together
        return Cut(self.layout, together, whole, self.windows if keeps else None)

    def steps(self, update: Update, vectors: Sequence[Tensor]) -> EagerSteps:
        """Steps of `update` on vectors; see `graphs`."""
        return self.graphs.steps(update, vectors) if self.graphs else EagerSteps(vectors)

    def batches(self, round: int, clients: Tensor) -> Batches:
        """The training batches of `clients`, int64 [C], in a round."""
        return Batches.of(self.partition, clients, round, self.work)

    @property
    def work(self) -> Work:
        """How long clients train."""
        return Work(self.local, self.seed)

    def load(self, pieces: list[Tensor], windows: Windows | None = None) -> list[Tensor]:
        """Copy a model, in the pieces of the layout, cut to windows if any, into the module.

        Returns the parameters that the module now computes with, in the shapes of the pieces.
        """
        if self.windows:
            self.windows.use(windows is not None)
        params = windows.params if windows else self.params
        with torch.no_grad():
            torch._foreach_copy_(params, pieces)
        return params

    def loss_and_gradient(
        self, params: Sequence[Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Pieces]:
        """The loss [] of a batch, and its gradient for params, which `load` returned.

        inputs: [B, ...]; targets: [B, ...].
        """
        micro = self.local.micro_batch_size
        if micro is not None and micro < len(inputs):
            return self._accumulated(
                params, torch.split(inputs, micro), torch.split(targets, micro)
            )
        inputs = self._ordered(inputs)
        if self.conv_stack:
            return self.conv_stack.gradient(params, inputs, targets)
        with torch.enable_grad():
            with self.autocast:
                outputs = widened(self.module(inputs))
            loss = self.loss.of_batch(outputs, targets)
            return loss.detach(), gradient(loss, params)

    def _accumulated(
        self, params: Sequence[Tensor], inputs: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, Pieces]:
        """The same of a batch in parts: sums over samples, divided by the sum of their weights."""
        sums, total = [], [torch.zeros_like(p) for p in params]
        for x, t in zip(map(self._ordered, inputs), targets):
            with torch.enable_grad():
                with self.autocast:
                    outputs = widened(self.module(x))
                loss, weight = self.loss.sums(outputs, t)
                torch._foreach_add_(total, gradient(loss, params))
            sums.append((loss.detach(), weight))
        losses, weights = zip(*sums)
        whole = sum(weights) + SMALLEST
        return sum(losses) / whole, torch._foreach_div(total, whole)

    def _ordered(self, inputs: Tensor) -> Tensor:
        """Images in the memory order that suits the module; other inputs as they are."""
        return inputs.contiguous(memory_format=self.format) if inputs.dim() == 4 else inputs

    def evaluation_batches(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut samples `start` to `stop` into batches: the first sample and the end of each.

        For a model to which its batch matters they are about equal, so that the last one is no
        smaller than the others.
        """
        if self.probed.rows_independent:
            starts = range(start, stop, EVALUATION_BATCH)
            return [(i, min(i + EVALUATION_BATCH, stop)) for i in starts]
        parts = -(-(stop - start) // EVALUATION_BATCH)
        cuts = [start + (stop - start) * i // parts for i in range(parts + 1)]
        return list(zip(cuts, cuts[1:]))

    def _held_out(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        validation = self.partition.validation
        if start < len(validation):
            return self.data.batch(validation[start:stop])
        return self.data.test_batch(start - len(validation), stop - len(validation))

    def score(self, x: Tensor, start: int, stop: int, scores: Scores) -> None:
        """Evaluate the model x [P] on one batch, of samples `start` to `stop` (see `Evaluate`).

        scores: to which it is added.
        """
        self._score(x, *self._held_out(start, stop), scores)

    def score_samples(self, x: Tensor, index: Tensor, scores: Scores) -> None:
        """Evaluate the model x [P] on training samples, int64 [N]; scores: added to."""
        for start, stop in self.evaluation_batches(0, len(index)):
            self._score(x, *self.data.batch(index[start:stop]), scores)

    def _score(self, x: Tensor, inputs: Tensor, targets: Tensor, scores: Scores) -> None:
        self.load(self.layout.views(x))
        with torch.inference_mode(), evaluating(self.module):
            scores.add(widened(self.module(self._ordered(inputs))), targets)
