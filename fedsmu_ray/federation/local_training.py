"""Local training of a group of clients at once: the leading axis of every tensor is the client."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.schema import LocalConfig
from fedsmu_ray.datasets.augment import flip_and_crop
from fedsmu_ray.datasets.dataset import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.errors import ClientError
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import streams
from fedsmu_ray.numerics.parameters import LARGE, Layout, chunked, empty, finite


def channels_last(inputs: Tensor) -> Tensor:
    """Images [B, C, H, W] in the memory order that convolutions are fastest in; anything else as it is."""
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
    ) -> None:
        self.augment = augment  # whether training images are flipped and cropped
        # What the products of the model are computed in; weights, gradients and everything that is sent stay float32.
        self.autocast = torch.autocast(
            data.device.type, torch.bfloat16, enabled=precision == "bfloat16"
        )
        self.layout = Layout.of(module)
        self.module, self.data, self.partition, self.local, self.seed = (
            module,
            data,
            partition,
            local,
            seed,
        )
        self.batched = registry.batches_clients(module, data.test_batch(0, 2)[0])

    def batches(self, round: int, clients: Tensor) -> tuple[Tensor, Tensor]:
        """Training batches of the round: dataset indices [C, K, B] and how many of the B are there, [C, K].

        Every epoch is a fresh permutation of the client's samples, cut into batches; the short last batch is kept
        and padded with index 0 beyond its count. A client with fewer batches than the longest of its group has
        empty ones (count 0).
        """
        size, epochs = self.local.batch_size, self.local.epochs
        sizes, starts = self.partition.sizes[clients], self.partition.starts[clients]
        order = streams.permutations(
            streams.keys(self.seed, "batches", round, clients), epochs, sizes
        )
        steps = -(-int(sizes.max()) // size)
        order = F.pad(order, (0, steps * size - order.shape[-1]))
        real = torch.arange(steps * size) < sizes[:, None, None]
        index = torch.where(
            real, self.partition.indices[starts[:, None, None] + torch.where(real, order, 0)], 0
        )
        shape = (len(clients), epochs * steps, size)
        return index.reshape(shape), real.expand_as(index).reshape(shape).sum(-1)

    def forward(self, y: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, ...] of C models y [C, P] on their own inputs [C, B, ...]."""
        if len(y) == 1:
            params = self.layout.named(self.layout.views(y[0]))
            return functional_call(self.module, params, channels_last(inputs[0]))[None]
        params = self.layout.named(self.layout.views(y))
        return vmap(lambda p, i: functional_call(self.module, p, i))(params, inputs)


class Local:
    """The local solvers of one group of clients in one round, as methods see them (`algorithms.Local`).

    setting: what methods may know of the experiment; the solvers themselves do without.
    """

    def __init__(
        self, trainer: Trainer, round: int, clients: Tensor, setting: Setting | None = None
    ) -> None:
        self.trainer, self.round, self.clients, self.setting = trainer, round, clients, setting
        self.lr = trainer.local.lr
        self.losses: Tensor | None = (
            None  # mean training loss of each client over its local steps, [C]
        )
        self.zeros = 0  # exact zeros met by `sign`

    @property
    def steps(self) -> Tensor:
        """K_i, the local steps of each client in one round, float [C, 1]."""
        local, sizes = self.trainer.local, self.trainer.partition.sizes[self.clients]
        return (
            (local.epochs * -(-sizes // local.batch_size))
            .float()[:, None]
            .to(self.trainer.data.device)
        )

    def sgd(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        """Local SGD from x, for `epochs` epochs of mini-batches (a fresh optimiser every round, no momentum):

            h <- gradient of the mean cross-entropy over the batch at y
            h <- h + correction + prox (y - x)               terms of the local objective
            h <- h min(1, clip_norm / (||h|| + 1e-6))        global norm; skipped without clip_norm
            y <- y - lr (h + weight_decay y)                 decay after clipping, on every parameter

        x: [P] or [C, P]; correction: [C, P]. Returns y, [C, P]. Raises ClientError for a client whose model is no
        longer finite.
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
        self._check(y)
        return y

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        """Local Lion from x and a momentum (both [P] or [C, P]), on the same batches as `sgd`, with h as there:

            w <- sign(beta1 mu + (1 - beta1) h)              torch's sign: 0 at 0
            mu <- beta2 mu + (1 - beta2) h
            y <- y - lr w                                    no weight decay: y stays a whole number of steps away

        Returns the sum of w over the steps (integers) and the last mu, both [C, P]. Raises ClientError like `sgd`.
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
        self._check(y + mu)
        return total, mu

    def _clip(self, h: Tensor) -> None:
        clip = self.trainer.local.clip_norm
        if clip is not None:
            norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
            h *= (clip / (norm + 1e-6)).clamp(max=1)

    def _check(self, y: Tensor) -> None:
        if finite(y):
            return
        for client, row in zip(self.clients.tolist(), y):
            if not finite(row):
                raise ClientError(
                    f"round {self.round}, client {client}: local training diverged (its model holds NaN or "
                    f"Inf); lower local.lr (now {self.trainer.local.lr}) or set local.clip_norm"
                )

    def _descend(
        self, y: Tensor, step: Callable[[slice, Tensor, Tensor, Tensor | None], None]
    ) -> None:
        """Train the models y [C, P] in place with `step(rows, y[rows], gradient, live)`, and note the mean losses.

        live: bool [C, 1], which clients still have a batch; None if all have.
        """
        count = len(self.clients)
        index, present = self.trainer.batches(self.round, self.clients)
        losses = torch.zeros(count)
        width = count if self.trainer.batched else 1
        with torch.random.fork_rng(devices=[]):
            for group in torch.arange(count).split(width):
                rows = slice(int(group[0]), int(group[-1]) + 1)
                losses[rows] = self._descend_rows(rows, y[rows], index[rows], present[rows], step)
        self.losses = losses

    def _descend_rows(
        self, rows: slice, y: Tensor, index: Tensor, present: Tensor, step: Callable
    ) -> Tensor:
        """Train the models y [C, P] of some clients in place; returns the mean loss of each, [C]."""
        trainer = self.trainer
        augmentation = streams.keys(trainer.seed, "augmentation", self.round, self.clients[rows])
        if (
            not trainer.batched
        ):  # what the model itself draws, as dropout does, belongs to this client and round
            torch.manual_seed(
                int(streams.keys(trainer.seed, "model", self.round, self.clients[rows])[0])
            )
        y.requires_grad_()
        slots = torch.arange(index.shape[-1])
        total = torch.zeros(len(y), device=y.device)
        for k in range(index.shape[1]):
            n = present[:, k]
            most = int(n.max())
            if (
                not most
            ):  # clients that train one by one have no batch where a longer one of their group has
                continue
            ragged = int(n.min()) < most
            inputs, targets = trainer.data.batch(index[:, k, :most])
            if trainer.augment:
                inputs = flip_and_crop(inputs, augmentation, k)
            with trainer.autocast:
                outputs = trainer.forward(y, inputs)
            if outputs.dtype == torch.bfloat16:
                outputs = outputs.float()
            loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(
                len(y), -1
            )
            if ragged:
                loss = loss * (slots[:most] < n[:, None]).to(y.device)
            loss = loss.sum(-1) / n.clamp(min=1).to(y.device)
            (h,) = torch.autograd.grad(loss.sum(), y)
            with torch.no_grad():
                step(rows, y, h, (n > 0)[:, None].to(y.device) if ragged else None)
                total += loss.detach()
        y.requires_grad_(False)
        return total.cpu() / (present > 0).sum(-1)

    def momentum_sign(
        self, y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float, zero_rule: str
    ) -> tuple[Tensor, Tensor]:
        """What Lion makes of the update delta = y - x: its sign(beta1 m + (1 - beta1) delta), as `sign` has it, and its new
        momentum beta2 m + (1 - beta2) delta, both from the old m.

        y: [C, P]; x, m: [P] or [C, P]. Returns both, [C, P]. Raises ClientError for NaN.
        """
        if y.is_cuda or y.shape[-1] < LARGE:
            delta = y - x
            return self.sign(beta1 * m + (1 - beta1) * delta, zero_rule), beta2 * m + (
                1 - beta2
            ) * delta
        from fedsmu_ray.numerics import kernels

        weights = np.array([beta1, 1 - beta1, beta2, 1 - beta2], np.float32)
        x, m = x.expand_as(y), m.expand_as(y)
        u, new = torch.empty(y.shape, dtype=torch.int8), empty(y.shape, y)
        zeros = [
            kernels.momentum_sign(*(t.numpy() for t in row), *weights, a.numpy(), b.numpy())
            for *row, a, b in zip(y, x, m, u, new)
        ]
        if any(zeros):
            self._settle(u, lambda at: beta1 * m[at] + (1 - beta1) * (y[at] - x[at]), zero_rule)
        return u, new

    def sign(self, v: Tensor, zero_rule: str) -> Tensor:
        """Signs of v [C, P] as int8, with exact zeros by `zero_rule`: 0 (`zero`), +1 (`plus`), or a fair coin from
        the client's compressor stream (`random`). Raises ClientError for NaN."""
        u = torch.sign(v).to(torch.int8)
        if not u.abs().amin():
            self._settle(u, v.__getitem__, zero_rule)
        return u

    def _settle(
        self, u: Tensor, values: Callable[[tuple[Tensor, Tensor]], Tensor], zero_rule: str
    ) -> None:
        """Give the zeros among the signs u [C, P] what `zero_rule` says; `values` tells of which values they are the signs."""
        row, column = at = (u == 0).nonzero(as_tuple=True)
        strange = row[values(at) != 0]
        if len(strange):
            raise ClientError(
                f"round {self.round}, client {int(self.clients[int(strange[0])])}: the update holds NaN; lower "
                f"local.lr (now {self.trainer.local.lr}) or set local.clip_norm"
            )
        self.zeros += len(row)
        if zero_rule == "plus":
            u[row, column] = 1
        elif zero_rule == "random":
            key = streams.keys(
                self.trainer.seed, "compressor", self.round, self.clients.to(u.device)
            )
            coin = streams.words(key[row], column) & 1
            u[row, column] = (2 * coin - 1).to(torch.int8)

    def uniform(self, v: Tensor) -> Tensor:
        """One draw from [0, 1) for every element of v [C, P], from the client's compressor stream.

        A multiple of 2^-24 from the high bits of the same words whose lowest bit is the coin of `sign`.
        """
        key = streams.keys(self.trainer.seed, "compressor", self.round, self.clients.to(v.device))[
            :, None
        ]

        def draw(first: int, v: Tensor) -> tuple[Tensor]:
            word = streams.words(key, torch.arange(first, first + v.shape[-1], device=v.device))
            return (((word >> 40) & ((1 << 24) - 1)).to(v.dtype) / (1 << 24),)

        return chunked(draw, v)[0]
