"""Local training of a client group: the leading axis of every tensor is the client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.datasets.augment import flip_and_crop
from fedsmu_ray.errors import ClientError, LocalDivergenceError
from fedsmu_ray.federation.batches import Batches
from fedsmu_ray.federation.graphs import Step
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.federation.updates import SummedLion, Update, update_of
from fedsmu_ray.numerics import gpu, isolation, passes, streams
from fedsmu_ray.numerics.parameters import chunked, is_finite
from fedsmu_ray.wire.base import ZeroRule


class GroupSolver:
    """The local solvers of one client group in one round (see `algorithms.base.LocalSolver`)."""

    def __init__(
        self,
        trainer: Trainer,
        round: int,
        clients: Tensor,
        setting: Setting,
        lr: float | None = None,
    ) -> None:
        """Take the clients of the group, int64 [C], and the setting, for the method.

        lr: learning rate of the round; default: `local.lr`.
        Clients that train together have to be in descending order of steps (`Problem.ordered`).
        """
        self.trainer, self.round, self.clients, self.setting = trainer, round, clients, setting
        self.lr = trainer.local.lr if lr is None else lr
        self.losses = torch.zeros(len(clients))  # mean training loss of each client over its steps
        self.zeros = 0  # exact zeros whose sign was asked for

    @property
    def steps(self) -> Tensor:
        """K_i, the local steps of each client in one round, float [C, 1]."""
        sizes = self.trainer.partition.sizes[self.clients]
        steps = self.trainer.work.steps(self.round, self.clients, sizes)
        return steps.float()[:, None].to(self.trainer.data.device)

    def train(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        """Local training from x with `local.optimizer`, for the epochs or steps of `local`.

        The state of the optimizer is new in every round. By default it is SGD without momentum:

            h <- gradient of the loss of the batch at y
            h <- h + correction + prox (y - x)               terms of the local objective
            h <- h min(1, clip_norm / (||h|| + 1e-6))        global norm; skipped without clip_norm
            y <- y - lr (h + weight_decay y)                 decay after clipping, of all parameters

        Other optimizers (`updates`) take h from there.

        x: [P] or [C, P]; correction: [C, P]. Returns y, [C, P]. Raises ClientError for a client
        whose model is no longer finite.
        """
        local = self.trainer.local
        x = x.expand(len(self.clients), -1)
        y = x.clone()
        terms = ([x] if prox else []) + ([] if correction is None else [correction])
        update = update_of(local, self.lr, prox, correction is not None)
        self._descend(y, update, [*update.new(y), *terms])
        self._check_finite(y)
        return y

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        """Local Lion from x and a momentum, both [P] or [C, P].

        The batches and the gradient h, clipped, are those of `train`:

            w <- sign(beta1 mu + (1 - beta1) h)              torch's sign: 0 at 0
            mu <- beta2 mu + (1 - beta2) h
            y <- y - lr w                                    no weight decay: whole steps only

        Returns the sum of w over the steps (integers) and the last mu, both [C, P]. Raises
        ClientError like `train`.
        """
        count, local = len(self.clients), self.trainer.local
        y, mu = x.expand(count, -1).clone(), momentum.expand(count, -1).clone()
        total = torch.zeros_like(y)
        update = SummedLion(self.lr, local.clip_norm, beta1=beta1, beta2=beta2)
        self._descend(y, update, [mu, total])
        self._check_finite(y + mu)
        return total, mu

    def momentum_sign(
        self, y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float, zero_rule: ZeroRule
    ) -> tuple[Tensor, Tensor]:
        """Lion's sign and momentum of the update y - x; see `algorithms.base.LocalSolver`.

        y: [C, P]; x, m: [P] or [C, P]. Raises ClientError for NaN.
        """
        u, new, any_zero = passes.momentum_sign(y, x, m, beta1, beta2)
        if any_zero:
            if not is_finite(new):  # as it is wherever the sum in the sign is NaN
                self._check_numbers(beta1 * m + (1 - beta1) * (y - x))
            self._apply(zero_rule, u)
        return u, new

    def sign(self, v: Tensor, zero_rule: ZeroRule) -> Tensor:
        """Signs of v [C, P] as int8, with exact zeros by `zero_rule`.

        A coin is drawn from the client's stream. Raises ClientError for NaN.
        """
        u = torch.sign(v).to(torch.int8)
        if not u.abs().amin():
            if not is_finite(v):
                self._check_numbers(v)
            self._apply(zero_rule, u)
        return u

    def uniform(self, v: Tensor) -> Tensor:
        """One draw from [0, 1) for every element of v [C, P], from the client's compressor stream.

        A multiple of 2^-24 from the high bits of the words whose lowest bit is the coin of `sign`.
        """
        clients = self.clients.to(v.device)
        key = streams.keys(self.trainer.seed, "compressor", self.round, clients)[:, None]

        def draw(first: int, v: Tensor) -> tuple[Tensor]:
            place = torch.arange(first, first + v.shape[-1], device=v.device)
            word = streams.words(key, place)
            return (((word >> 40) & ((1 << 24) - 1)).to(v.dtype) / (1 << 24),)

        return chunked(draw, v)[0]

    def _check_finite(self, y: Tensor) -> None:
        if is_finite(y):
            return
        for client, row in zip(self.clients.tolist(), y):
            if not is_finite(row):
                raise LocalDivergenceError(
                    f"round {self.round}, client {client}: local training diverged (its model "
                    f"holds NaN or Inf); lower local.lr (now {self.lr}) or set local.clip_norm"
                )

    @torch.no_grad()
    def _descend(self, y: Tensor, update: Update, others: Sequence[Tensor]) -> None:
        """Train the models y [C, P] in place, and note the mean losses.

        others: further vectors of `update`, [C, P], and numbers, [C].
        """
        trainer, count = self.trainer, len(y)
        batches = trainer.batches(self.round, self.clients)
        together = trainer.trains_together(batches.steps)
        if together or (trainer.batched and trainer.batched.stack):
            width = count if together else 1
            groups = [slice(i, i + width) for i in range(0, count, width)]
            total = torch.cat(
                [self._descend_together([y, *others], rows, batches, update) for rows in groups]
            )
        else:
            alone = [self._descend_alone([y, *others], i, batches, update) for i in range(count)]
            total = torch.stack(alone)
        self.losses = total.cpu() / batches.steps

    def _descend_alone(
        self, vectors: Sequence[Tensor], row: int, batches: Batches, update: Update
    ) -> Tensor:
        """Train one client's model in the module itself; returns the sum of its losses, [].

        vectors: models y [C, P], and others, of `update`.
        """
        trainer, cut = self.trainer, self.trainer.cut(together=False, update=update)
        own = cut.pieces(vectors[0][row])
        # What the model draws (dropout) is a function of the client and the round.
        key = streams.keys(trainer.seed, "model", self.round, self.clients[row])
        isolation.seed_generators(int(key))
        params = trainer.load(own, cut.windows)
        total = torch.zeros((), device=trainer.data.device)
        steps = trainer.steps(update, [total, *(v[row] for v in vectors[1:])])
        losses, others = steps.vectors[0], [cut.pieces(v) for v in steps.vectors[1:]]

        def step(inputs: Tensor, targets: Tensor) -> None:
            loss, h = trainer.loss_and_gradient(params, inputs, targets)
            update(cut, params, h, *others)
            losses.add_(loss)

        rows, stop = slice(row, row + 1), int(batches.steps[row])
        for inputs, targets, _ in self._samples(batches, rows, 0, stop):
            steps.run(step, (inputs[0], targets[0]))
        steps.store(1 + update.written)
        torch._foreach_copy_(own, params)
        return total

    def _descend_together(
        self, vectors: Sequence[Tensor], group: slice, batches: Batches, update: Update
    ) -> Tensor:
        """Train some of the models in one computation; returns sums of their losses, [R].

        vectors: models y [C, P], and others, of `update`. A client is left out after its last step.
        """
        trainer, numbers, first = self.trainer, batches.steps[group], 0
        assert trainer.batched is not None
        assert (numbers.diff() <= 0).all(), "clients are not in descending order of steps"
        may_draw = trainer.is_users and not trainer.batched.stack
        before = isolation.generator_states() if may_draw else None
        total = torch.zeros(len(numbers), device=trainer.data.device)
        steps = trainer.steps(update, [total, *(v[group] for v in vectors)])
        samples = self._chunks if self._takes_chunks(update) else self._samples
        for stop in sorted(set(numbers.tolist())):
            count = int((numbers >= stop).sum())
            step = self._step_together(update, *(v[:count] for v in steps.vectors))
            rows = slice(group.start, group.start + count)
            for batch in samples(batches, rows, first, stop):
                steps.run(step, batch)
            first = stop
        steps.store(2 + update.written)
        if before is not None and isolation.generator_states() != before:
            raise ClientError(
                f"round {self.round}, clients {self.clients[group].tolist()}: the model drew "
                "random numbers, but it had drawn none when it was checked, so its clients were "
                "trained together; let it draw in every training step or in none"
            )
        return total

    def _step_together(self, update: Update, total: Tensor, y: Tensor, *others: Tensor) -> Step:
        """A step of the models y [R, P], which adds their losses to `total` [R]."""
        trainer, cut = self.trainer, self.trainer.cut(together=True)
        assert trainer.batched is not None and trainer.gradient is not None
        compute, stack = trainer.gradient, trainer.batched.stack
        own, *further = [cut.pieces(v) for v in (y, *others)]
        params = trainer.layout.views(y) if cut.is_whole else own
        params = [p.detach().requires_grad_() for p in params]

        def step(inputs: Tensor, targets: Tensor, weight: Tensor) -> None:
            losses, h = compute(params, inputs, targets, weight)
            update(cut, own, cut.gradient(h), *further)
            total.add_(losses)

        def plain_steps(inputs: Tensor, targets: Tensor, weight: Tensor, sizes: list[int]) -> None:
            assert stack is not None
            for losses in stack.sgd(params, inputs, targets, weight, sizes, self.lr):
                total.add_(losses)

        def plain_step(inputs: Tensor, targets: Tensor, weight: Tensor) -> None:
            plain_steps(inputs[:, None], targets[:, None], weight[:, None], [inputs.shape[1]])

        if not stack or not update.is_plain:
            return step
        return plain_steps if self._takes_chunks(update) else plain_step

    def _takes_chunks(self, update: Update) -> bool:
        """Whether steps are taken on `_chunks`: where each has no graph of its own."""
        batched, graphs = self.trainer.batched, self.trainer.graphs
        return bool(update.is_plain and batched and batched.stack) and graphs is None

    def _samples(
        self, batches: Batches, rows: slice, first: int, stop: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What some clients train on in their steps from `first` to `stop` (exclusive).

        For each step inputs [R, B, ...], targets [R, B], and the weight of each sample in the mean
        over its batch [R, B]: 0 beyond the end of a batch that is shorter than those of others.
        """
        for *tensors, counts in self._chunks(batches, rows, first, stop):
            for n, x, y, w in zip(counts, *(tensor.unbind(1) for tensor in tensors)):
                yield (x, y, w) if n == w.shape[1] else (x[:, :n], y[:, :n], w[:, :n])

    def _chunks(
        self, batches: Batches, rows: slice, first: int, stop: int
    ) -> Iterator[tuple[Any, ...]]:
        """The same for several steps at once.

        inputs [R, K, B, ...], targets and weight [R, K, B], and how many of the B samples the
        largest batch of each step has.
        """
        trainer, index, sizes = self.trainer, batches.index[rows], batches.sizes[rows]
        ahead = trainer.data.samples_ahead // index[:, 0].numel() or 1
        longest, slot = sizes.amax(0).tolist(), torch.arange(index.shape[-1])
        for k in range(first, stop, ahead):
            steps = slice(k, min(k + ahead, stop))
            inputs, targets = trainer.data.batch(index[:, steps])
            if trainer.augment:
                key = streams.keys(trainer.seed, "augmentation", self.round, self.clients[rows])
                inputs = flip_and_crop(inputs, key, k)
            count = sizes[:, steps, None]
            weight = gpu.upload((slot < count) / count, inputs.device)
            yield inputs, targets, weight, longest[steps]

    def _check_numbers(self, v: Tensor) -> None:
        """Raise ClientError for a client whose row of v [C, P] holds NaN."""
        nan = v.isnan().any(-1).tolist()
        if any(nan):
            raise ClientError(
                f"round {self.round}, client {int(self.clients[nan.index(True)])}: the update "
                f"holds NaN; lower local.lr (now {self.lr}) or set local.clip_norm"
            )

    def _apply(self, zero_rule: ZeroRule, u: Tensor) -> None:
        """Replace and count the zeros among the signs u [C, P]."""
        if zero_rule == "zero":
            self.zeros += int((u == 0).sum())
            return
        key = None
        if zero_rule == "random":
            key = streams.keys(self.trainer.seed, "compressor", self.round, self.clients)
        self.zeros += passes.fill_zeros(u, key)
