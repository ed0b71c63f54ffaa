"""Local training of a client group: the leading axis of every tensor is the client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.schema import LocalConfig
from fedsmu_ray.datasets.augment import flip_and_crop
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.errors import ClientError, LocalDivergenceError
from fedsmu_ray.models.modes import evaluating
from fedsmu_ray.models.probes import Probed
from fedsmu_ray.numerics import isolation, passes, streams
from fedsmu_ray.numerics.parameters import Layout, call, chunked, is_finite
from fedsmu_ray.wire.base import ZeroRule

EVALUATION_BATCH = 500  # test samples that are evaluated at once

# One local step: (rows of the group, their models [R, P], gradients [R, P], live), updating the
# models in place. live: bool [R, 1], which of these clients still have a batch; None if all have.
LocalStep = Callable[[slice, Tensor, Tensor, Tensor | None], None]


def channels_last(inputs: Tensor) -> Tensor:
    """Images [B, C, H, W] in the memory order that suits convolutions; other inputs unchanged."""
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


class Trainer:
    """Everything local training needs that does not change over rounds; one per process."""

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
    ) -> None:
        """Take what all rounds share.

        augment: whether training images are flipped and cropped. precision: of matrix products and
        convolutions; weights, gradients and everything that is sent stay float32. probed: what is
        known of the module. is_users: whether it is the user's code.
        """
        self.module, self.data, self.partition, self.local = module, data, partition, local
        self.seed, self.augment = seed, augment
        bfloat16 = precision == "bfloat16"
        self.autocast = torch.autocast(data.device.type, torch.bfloat16, enabled=bfloat16)
        self.layout = Layout.of(module)
        self.probed, self.is_users = probed or Probed(), is_users
        self.batched = self.probed.batches_clients(module, data.test_batch(0, 2)[0])

    def batches(self, round: int, clients: Tensor) -> tuple[Tensor, Tensor]:
        """Training batches of the round: indices [C, K, B], and batch sizes [C, K].

        The indices refer to the training set. Every epoch is a fresh permutation of the client's
        samples, cut into batches; the short last batch is kept and padded with index 0. A client
        with fewer batches than the longest of its group has empty ones (of size 0).
        """
        size, epochs = self.local.batch_size, self.local.epochs
        sizes, starts = self.partition.sizes[clients], self.partition.starts[clients]
        keys = streams.keys(self.seed, "batches", round, clients)
        order = streams.permutations(keys, epochs, sizes)
        steps = -(-int(sizes.max()) // size)
        order = F.pad(order, (0, steps * size - order.shape[-1]))
        real = torch.arange(steps * size) < sizes[:, None, None]
        place = starts[:, None, None] + torch.where(real, order, 0)
        index = torch.where(real, self.partition.indices[place], 0)
        shape = (len(clients), epochs * steps, size)
        return index.reshape(shape), real.expand_as(index).reshape(shape).sum(-1)

    def forward(self, y: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, ...] of C models y [C, P] on their own inputs [C, B, ...]."""
        if len(y) == 1:
            params = self.layout.named(self.layout.views(y[0]))
            outputs: Tensor = call(self.module, params, channels_last(inputs[0]))
            return outputs[None]
        params = self.layout.named(self.layout.views(y))
        together: Tensor = vmap(partial(call, self.module))(params, inputs)
        return together

    def evaluation_batches(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut test samples `start` to `stop` into batches: the first sample and the end of each.

        For a model to which its batch matters they are about equal, so that the last one is no
        smaller than the others.
        """
        if self.probed.rows_independent:
            starts = range(start, stop, EVALUATION_BATCH)
            return [(i, min(i + EVALUATION_BATCH, stop)) for i in starts]
        parts = -(-(stop - start) // EVALUATION_BATCH)
        cuts = [start + (stop - start) * i // parts for i in range(parts + 1)]
        return list(zip(cuts, cuts[1:]))

    def score(self, x: Tensor, start: int, stop: int) -> tuple[int, float]:
        """Evaluate the model x [P] on one batch, of the test samples `start` to `stop`.

        Returns how many are classified correctly, and the sum of their cross-entropy.
        """
        inputs, targets = self.data.test_batch(start, stop)
        params = self.layout.named(self.layout.views(x))
        with torch.inference_mode(), evaluating(self.module):
            outputs = _widened(call(self.module, params, channels_last(inputs)))
            correct = int((outputs.argmax(-1) == targets).sum())
            return correct, float(F.cross_entropy(outputs, targets, reduction="sum"))

    def losses(self, y: Tensor, inputs: Tensor, targets: Tensor, real: Tensor) -> Tensor:
        """Mean cross-entropy [C] of C models y [C, P] on their batches.

        inputs: [C, B, ...]; targets: [C, B]; real: [C], how many samples of each batch count.
        """
        with self.autocast:
            outputs = _widened(self.forward(y, inputs))
        loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        loss = loss.view(len(y), -1)
        if int(real.min()) < loss.shape[1]:
            loss = loss * (torch.arange(loss.shape[1]) < real[:, None]).to(y.device)
        return loss.sum(-1) / real.clamp(min=1).to(y.device)


def _widened(outputs: Tensor) -> Tensor:
    """Logits in float32 if they have fewer bits: sums over a batch would lose most of them."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


class GroupSolver:
    """The local solvers of one client group in one round (see `algorithms.base.LocalSolver`)."""

    def __init__(self, trainer: Trainer, round: int, clients: Tensor, setting: Setting) -> None:
        """Take the clients of the group, int64 [C], and the setting, for the method."""
        self.trainer, self.round, self.clients, self.setting = trainer, round, clients, setting
        self.lr = trainer.local.lr
        self.losses = torch.zeros(len(clients))  # mean training loss of each client over its steps
        self.zeros = 0  # exact zeros whose sign was asked for

    @property
    def steps(self) -> Tensor:
        """K_i, the local steps of each client in one round, float [C, 1]."""
        local, sizes = self.trainer.local, self.trainer.partition.sizes[self.clients]
        steps = (local.epochs * -(-sizes // local.batch_size)).float()[:, None]
        return steps.to(self.trainer.data.device)

    def sgd(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        """Local SGD from x, for `epochs` epochs of mini-batches.

        The optimizer has no momentum and is new in every round:

            h <- gradient of the mean cross-entropy over the batch at y
            h <- h + correction + prox (y - x)               terms of the local objective
            h <- h min(1, clip_norm / (||h|| + 1e-6))        global norm; skipped without clip_norm
            y <- y - lr (h + weight_decay y)                 decay after clipping, of all parameters

        x: [P] or [C, P]; correction: [C, P]. Returns y, [C, P]. Raises ClientError for a client
        whose model is no longer finite.
        """
        local = self.trainer.local
        x = x.expand(len(self.clients), -1)
        y = x.clone()

        def step(rows: slice, y: Tensor, h: Tensor, live: Tensor | None) -> None:
            if correction is not None:
                h += correction[rows]
            if prox:
                h.add_(y - x[rows], alpha=prox)
            self._clip(h)
            rate = torch.full((len(y), 1), local.lr, device=y.device)
            if live is not None:
                rate *= live
            if local.weight_decay:
                h.add_(y, alpha=local.weight_decay)
            y.addcmul_(h, rate, value=-1)

        self._descend(y, step)
        self._check_finite(y)
        return y

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        """Local Lion from x and a momentum, both [P] or [C, P].

        The batches and the gradient h are those of `sgd`:

            w <- sign(beta1 mu + (1 - beta1) h)              torch's sign: 0 at 0
            mu <- beta2 mu + (1 - beta2) h
            y <- y - lr w                                    no weight decay: whole steps only

        Returns the sum of w over the steps (integers) and the last mu, both [C, P]. Raises
        ClientError like `sgd`.
        """
        count, lr = len(self.clients), self.trainer.local.lr
        y, mu = x.expand(count, -1).clone(), momentum.expand(count, -1).clone()
        total = torch.zeros_like(y)

        def step(rows: slice, y: Tensor, h: Tensor, live: Tensor | None) -> None:
            self._clip(h)
            old = mu[rows]
            w = torch.sign(beta1 * old + (1 - beta1) * h)
            new = beta2 * old + (1 - beta2) * h
            if live is not None:
                w, new = w * live, torch.where(live, new, old)
            mu[rows] = new
            total[rows] += w
            y.add_(w, alpha=-lr)

        self._descend(y, step)
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
            x, m = x.expand_as(y), m.expand_as(y)
            self._resolve_zeros(
                u, lambda at: beta1 * m[at] + (1 - beta1) * (y[at] - x[at]), zero_rule
            )
        return u, new

    def sign(self, v: Tensor, zero_rule: ZeroRule) -> Tensor:
        """Signs of v [C, P] as int8, with exact zeros by `zero_rule`.

        A coin is drawn from the client's stream. Raises ClientError for NaN.
        """
        u = torch.sign(v).to(torch.int8)
        if not u.abs().amin():
            self._resolve_zeros(u, v.__getitem__, zero_rule)
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

    def _clip(self, h: Tensor) -> None:
        clip = self.trainer.local.clip_norm
        if clip is not None:
            norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
            scale = (clip / (norm + 1e-6)).clamp(max=1)
            # A norm that float32 does not hold would make the scale, and so the step, 0.
            h *= torch.where(norm.isfinite(), scale, torch.nan)

    def _check_finite(self, y: Tensor) -> None:
        if is_finite(y):
            return
        for client, row in zip(self.clients.tolist(), y):
            if not is_finite(row):
                raise LocalDivergenceError(
                    f"round {self.round}, client {client}: local training diverged (its model "
                    f"holds NaN or Inf); lower local.lr (now {self.lr}) or set local.clip_norm"
                )

    def _descend(self, y: Tensor, step: LocalStep) -> None:
        """Train the models y [C, P] in place with `step`, and note the mean losses."""
        count = len(self.clients)
        index, real = self.trainer.batches(self.round, self.clients)
        width = count if self.trainer.batched else 1
        for first in range(0, count, width):
            rows = slice(first, first + width)
            self.losses[rows] = self._descend_rows(rows, y[rows], index[rows], real[rows], step)

    def _descend_rows(
        self, rows: slice, y: Tensor, index: Tensor, real: Tensor, step: LocalStep
    ) -> Tensor:
        """Train some models y [R, P] in place; returns the mean loss of each, [R].

        index, real: their batches, as from `Trainer.batches`.
        """
        trainer, clients = self.trainer, self.clients[rows]
        augmentation = streams.keys(trainer.seed, "augmentation", self.round, clients)
        alone = not trainer.batched or (trainer.is_users and len(clients) == 1)
        if alone:
            # The model's own draws (dropout) are a function of the client and the round.
            key = streams.keys(trainer.seed, "model", self.round, clients)
            isolation.seed_generators(int(key[0]))
        before = isolation.generator_states() if trainer.is_users and not alone else None
        y.requires_grad_()
        total = torch.zeros(len(y), device=y.device)
        for k in range(index.shape[1]):
            n = real[:, k]
            longest = int(n.max())
            if not longest:  # the longest client of its group has more batches than this one
                continue
            inputs, targets = trainer.data.batch(index[:, k, :longest])
            if trainer.augment:
                inputs = flip_and_crop(inputs, augmentation, k)
            loss = trainer.losses(y, inputs, targets, n)
            (h,) = torch.autograd.grad(loss.sum(), y)
            live = (n > 0)[:, None].to(y.device) if int(n.min()) < longest else None
            with torch.no_grad():
                step(rows, y, h, live)
                total += loss.detach()
        y.requires_grad_(False)
        if before is not None and isolation.generator_states() != before:
            raise ClientError(
                f"round {self.round}, clients {clients.tolist()}: the model drew random numbers, "
                "but it had drawn none when it was checked, so its clients were trained together; "
                "let it draw in every training step or in none"
            )
        return total.cpu() / (real > 0).sum(-1)

    def _resolve_zeros(
        self, u: Tensor, values: Callable[[tuple[Tensor, ...]], Tensor], zero_rule: ZeroRule
    ) -> None:
        """Apply `zero_rule` to the zeros among the signs u [C, P].

        values: looks up the values, at given positions, whose signs u holds.
        """
        row, column = at = (u == 0).nonzero(as_tuple=True)
        nan = row[values(at) != 0]
        if len(nan):
            raise ClientError(
                f"round {self.round}, client {int(self.clients[int(nan[0])])}: the update holds "
                f"NaN; lower local.lr (now {self.lr}) or set local.clip_norm"
            )
        self.zeros += len(row)
        if zero_rule == "plus":
            u[row, column] = 1
        elif zero_rule == "random":
            clients = self.clients.to(u.device)
            key = streams.keys(self.trainer.seed, "compressor", self.round, clients)
            coin = streams.words(key[row], column) & 1
            u[row, column] = (2 * coin - 1).to(torch.int8)
