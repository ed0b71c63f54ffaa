"""Methods on small exact problems: float64, no bytes, no Ray. What the oracles of the literature are stated for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from fedsmu_ray.algorithms.base import Round, Setting
from fedsmu_ray.wire.compressors import PerClient

F64 = torch.float64


@dataclass
class Quadratics:
    """m clients with F_i(y) = sum_j a_ij (y_j - b_ij)^2 / 2; the local solver takes `steps` full-gradient steps."""

    a: torch.Tensor  # [m, P]
    b: torch.Tensor  # [m, P]
    lr: float = 0.05
    steps: int = 1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    sizes: tuple[int, ...] | None = None  # of the parameter tensors; default: one
    coins: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @staticmethod
    def random(m: int, dim: int = 7, seed: int = 0, **options) -> Quadratics:
        g = torch.Generator().manual_seed(seed)
        a, b = (
            torch.rand(m, dim, generator=g, dtype=F64),
            torch.randn(m, dim, generator=g, dtype=F64),
        )
        return Quadratics(0.5 + a, b, **options)

    def gradient(self, clients, y):
        return self.a[clients] * (y - self.b[clients])

    def setting(self, cohort):
        return Setting(self.sizes or (self.a.shape[1],), len(self.a), cohort, self.steps, self.lr)

    def local(self, clients, cohort=None):
        return QuadraticLocal(self, list(clients), self.setting(cohort or len(clients)))


@dataclass
class QuadraticLocal:
    """`algorithms.Local` for a group of quadratic clients."""

    problem: Quadratics
    clients: list[int]
    setting: Setting

    @property
    def lr(self):
        return self.problem.lr

    @property
    def steps(self):
        return torch.full((len(self.clients), 1), self.problem.steps, dtype=F64)

    def sgd(self, x, correction=None, prox=0.0):
        p = self.problem
        x = x.expand(len(self.clients), -1)
        y = x.clone()
        for _ in range(p.steps):
            h = (
                p.gradient(self.clients, y)
                + prox * (y - x)
                + (0 if correction is None else correction)
            )
            if p.clip_norm is not None:
                h = h * (p.clip_norm / (h.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1)
            y = y - p.lr * (h + p.weight_decay * y)
        return y

    def lion(self, x, momentum, beta1, beta2):
        p = self.problem
        y, mu = (t.expand(len(self.clients), -1).clone() for t in (x, momentum))
        total = torch.zeros_like(y)
        for _ in range(p.steps):
            h = p.gradient(self.clients, y)
            w = torch.sign(beta1 * mu + (1 - beta1) * h)
            mu = beta2 * mu + (1 - beta2) * h
            y, total = y - p.lr * w, total + w
        return total, mu

    def uniform(self, v):
        return torch.rand(v.shape, generator=self.problem.coins, dtype=v.dtype)

    def momentum_sign(self, y, x, m, beta1, beta2, zero_rule):
        return self.sign(beta1 * m + (1 - beta1) * (y - x), zero_rule), beta2 * m + (1 - beta2) * (
            y - x
        )

    def sign(self, v, zero_rule):
        u = torch.sign(v)
        if zero_rule == "plus":
            u = torch.where(v == 0, torch.ones_like(u), u)
        elif zero_rule == "random":
            coin = 2.0 * torch.randint(2, v.shape, generator=self.problem.coins) - 1
            u = torch.where(v == 0, coin.to(u.dtype), u)
        return u.to(torch.int8)


@dataclass
class Trace:
    """Everything a test may look at: x[t] before round t + 1, and per round the uploads and states of all clients."""

    x: list[torch.Tensor]
    uploads: list[dict[int, dict[str, torch.Tensor]]]
    states: list[dict[int, dict[str, torch.Tensor]]]
    servers: list[dict[str, torch.Tensor]]


def simulate(method, problem: Quadratics, x: torch.Tensor, rounds: int, cohorts=None) -> Trace:
    """Run the method through its contract; cohorts: clients of every round, default everyone.

    Where cohorts are of unlike sizes, the largest is the configured one and the others lost some of their clients.
    """
    m = len(problem.a)
    setting = problem.setting(max(map(len, cohorts)) if cohorts else m)
    server = dict(method.server_init(x))
    states = {i: dict(method.client_init(x)) for i in range(m)}
    trace = Trace([x], [], [dict(states)], [server])
    for t in range(1, rounds + 1):
        cohort = cohorts[t - 1] if cohorts else list(range(m))
        upload, new = method.client(
            method.broadcast(server), stack(states, cohort), problem.local(cohort, setting.cohort)
        )
        uplink = method.uplink(setting)
        assert set(upload) == set(uplink) and set(method.broadcast(server)) == set(
            method.downlink(setting)
        )
        keep(states, cohort, new)
        mean = {
            k: v.to(F64) if isinstance(uplink[k], PerClient) else v.to(F64).mean(0)
            for k, v in upload.items()
        }
        server = dict(method.server(server, mean, Round(t, tuple(cohort), setting, 0)))
        if hasattr(method, "reply"):
            listeners = cohort if method.relay == "participants" else list(range(m))
            heard = method.apply_feedback(
                method.answer(server),
                stack(states, listeners),
                replace(setting, cohort=len(cohort)),
            )
            keep(states, listeners, heard)
        trace.x.append(server["x"])
        trace.uploads.append(
            {i: {k: v[row] for k, v in upload.items()} for row, i in enumerate(cohort)}
        )
        trace.states.append(dict(states))
        trace.servers.append(server)
    return trace


def stack(states, clients):
    return {k: torch.stack([states[i][k] for i in clients]) for k in states[clients[0]]}


def keep(states, clients, new):
    for row, i in enumerate(clients):
        states[i] = {k: v[row] for k, v in new.items()}


def lion(problem, x, rounds, lr, weight_decay, beta1, beta2):
    """Chen et al.'s Lion on the first client's full gradient: x before every step, and after the last."""
    m, xs = torch.zeros_like(x), [x]
    for _ in range(rounds):
        g = problem.gradient([0], x[None])[0]
        u = torch.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        x = x - lr * (u + weight_decay * x)
        xs.append(x)
    return xs


def same(one, other, rtol=1e-12, atol=1e-13):
    """Two trajectories, equal up to rounding."""
    assert len(one) == len(other)
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def random_cohorts(m: int, n: int, rounds: int, seed: int = 1) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [sorted(torch.randperm(m, generator=g)[:n].tolist()) for _ in range(rounds)]


def ragged_cohorts(m: int, n: int, rounds: int, seed: int = 2) -> list[list[int]]:
    """Cohorts of n of which some clients are lost: 1 to n of them take part."""
    g = torch.Generator().manual_seed(seed)
    left = [
        cohort[: 1 + int(torch.randint(n, (), generator=g))]
        for cohort in random_cohorts(m, n, rounds - 1, seed)
    ]
    return [list(range(n)), *left]


def start(dim: int = 7, seed: int = 3, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def normal(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def signs(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.sign(normal(*shape, seed=seed))
