"""What methods may know of the experiment beside their own options."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.numerics import streams
from fedsmu_ray.numerics.parameters import LARGE, empty


@dataclass(frozen=True)
class Setting:
    """Fixed facts of an experiment."""

    sizes: tuple[
        int, ...
    ]  # elements of each of the L parameter tensors, in the order of the flat vector
    clients: int  # m
    cohort: int  # n
    steps: int  # K, local steps of the client with most samples
    lr: float  # eta, the local learning rate

    @property
    def dim(self) -> int:
        """d, the number of parameters."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Round:
    """One round as its server step sees it."""

    number: int  # from 1
    clients: tuple[int, ...]  # whose uploads the mean is over, in cohort order
    setting: Setting
    seed: int

    @property
    def share(self) -> float:
        """The share n / m of the federation that took part."""
        return len(self.clients) / self.setting.clients

    def step(self, x: Tensor, u: Tensor, rate: float, decay: float) -> Tensor:
        """x + rate (u - decay x), [P]: a step with decoupled weight decay."""
        if len(x) < LARGE or x.dtype != torch.float32:
            return x + rate * (u - decay * x)
        from fedsmu_ray.numerics import kernels

        new = empty(x.shape, x)
        kernels.decayed_step(x.numpy(), u.numpy(), np.float32(rate), np.float32(decay), new.numpy())
        return new

    def sign(self, votes: Tensor, tie_rule: str) -> Tensor:
        """The sign of `votes` [P], in its dtype; a tie (0) stays 0 (`zero`) or is decided by a coin of the round (`random`)."""
        sign = torch.sign(votes)
        if tie_rule == "random":
            key = streams.keys(self.seed, "ties", self.number, torch.tensor(0))
            coins = 2 * (streams.words(key, torch.arange(len(votes))) & 1) - 1
            sign = torch.where(votes == 0, coins.to(sign.dtype), sign)
        return sign
