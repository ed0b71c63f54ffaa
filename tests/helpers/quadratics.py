"""Methods on small quadratic problems in float64, without messages or Ray.

The exact oracles of the literature hold on these problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedsmu_ray.algorithms.base import LocalSolver, Method, Round, Setting, State
from fedsmu_ray.wire.base import Fields, ZeroRule
from fedsmu_ray.wire.compressors import PerClient

F64 = torch.float64
COMPRESSORS = [  # options of methods with biased compressors
    {"compressor": "topk", "k_ratio": 0.3},
    {"compressor": "sign"},
    {"compressor": "heavy_sign", "k_ratio": 0.4},
    {"compressor": "topk", "k_ratio": 0.3, "group": "tensor"},
    {"compressor": "sign", "group": "model"},
]


@dataclass
class Quadratics:
    """m clients with F_i(y) = sum_j a_ij (y_j - b_ij)^2 / 2.

    The local solver takes `steps` full-gradient steps, or those of `work` for each client.
    """

    a: Tensor  # [m, P]
    b: Tensor  # [m, P]
    lr: float = 0.05
    steps: int = 1
    work: tuple[int, ...] | None = None  # K_i of every client, at most `steps`; default: `steps`
    weights: tuple[int, ...] | None = None  # of every client; default: equal
    weight_decay: float = 0.0
    clip_norm: float | None = None
    sizes: tuple[int, ...] | None = None  # of the parameter tensors; default: one
    coins: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @staticmethod
    def random(m: int, dim: int = 7, seed: int = 0, **options) -> Quadratics:
        """Random curvatures in [0.5, 1.5] and optima."""
        g = torch.Generator().manual_seed(seed)
        a = torch.rand(m, dim, generator=g, dtype=F64)
        b = torch.randn(m, dim, generator=g, dtype=F64)
        return Quadratics(0.5 + a, b, **options)

    def gradient(self, clients: list[int], y: Tensor) -> Tensor:
        return self.a[clients] * (y - self.b[clients])

    def setting(self, cohort: int) -> Setting:
        return Setting(self.sizes or (self.a.shape[1],), len(self.a), cohort, self.steps, self.lr)

    def steps_of(self, clients: list[int]) -> tuple[int, ...]:
        return tuple(self.work[i] if self.work else self.steps for i in clients)

    def weights_of(self, clients: list[int]) -> tuple[int, ...] | None:
        return tuple(self.weights[i] for i in clients) if self.weights else None

    def local(self, clients, cohort: int | None = None) -> QuadraticSolver:
        return QuadraticSolver(self, list(clients), self.setting(cohort or len(clients)))


@dataclass
class QuadraticSolver:
    """`algorithms.base.LocalSolver` for a group of quadratic clients."""

    problem: Quadratics
    clients: list[int]
    setting: Setting

    @property
    def lr(self) -> float:
        return self.problem.lr

    @property
    def steps(self) -> Tensor:
        return torch.tensor(self.problem.steps_of(self.clients), dtype=F64)[:, None]

    def train(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        p, extra = self.problem, 0 if correction is None else correction
        x = x.expand(len(self.clients), -1)
        y = x.clone()
        for k in range(p.steps):
            h = p.gradient(self.clients, y) + prox * (y - x) + extra
            if p.clip_norm is not None:
                h = h * (p.clip_norm / (h.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1)
            y = torch.where(k < self.steps, y - p.lr * (h + p.weight_decay * y), y)
        return y

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        p = self.problem
        y, mu = (t.expand(len(self.clients), -1).clone() for t in (x, momentum))
        total = torch.zeros_like(y)
        for _ in range(p.steps):
            h = p.gradient(self.clients, y)
            w = torch.sign(beta1 * mu + (1 - beta1) * h)
            mu = beta2 * mu + (1 - beta2) * h
            y, total = y - p.lr * w, total + w
        return total, mu

    def momentum_sign(
        self, y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float, zero_rule: ZeroRule
    ) -> tuple[Tensor, Tensor]:
        delta = y - x
        u = self.sign(beta1 * m + (1 - beta1) * delta, zero_rule)
        return u, beta2 * m + (1 - beta2) * delta

    def sign(self, v: Tensor, zero_rule: ZeroRule) -> Tensor:
        u = torch.sign(v)
        if zero_rule == "plus":
            u = torch.where(v == 0, torch.ones_like(u), u)
        elif zero_rule == "random":
            coin = 2.0 * torch.randint(2, v.shape, generator=self.problem.coins) - 1
            u = torch.where(v == 0, coin.to(u.dtype), u)
        return u.to(torch.int8)

    def uniform(self, v: Tensor) -> Tensor:
        return torch.rand(v.shape, generator=self.problem.coins, dtype=v.dtype)


States = dict[int, State]  # of every client


@dataclass
class Trace:
    """The history of a simulation: x[t] before round t + 1, uploads and states of every round."""

    x: list[Tensor]
    uploads: list[dict[int, State]]
    states: list[States]
    servers: list[State]


def simulate(
    method: Method,
    problem: Quadratics,
    x: Tensor,
    rounds: int,
    cohorts: list[list[int]] | None = None,
) -> Trace:
    """Run a method through its contract.

    cohorts: the participants of every round, by default all clients. If their sizes differ, the
    largest is the configured cohort size, and the other cohorts have lost some of their clients.
    """
    m = len(problem.a)
    setting = problem.setting(max(map(len, cohorts)) if cohorts else m)
    server = dict(method.server_init(x))
    states = {i: dict(method.client_init(x)) for i in range(m)}
    trace = Trace([x], [], [dict(states)], [server])
    for t in range(1, rounds + 1):
        cohort = cohorts[t - 1] if cohorts else list(range(m))
        received = select(method.broadcast(server), method.downlink(setting))
        local: LocalSolver = problem.local(cohort, setting.cohort)
        upload, new = method.client(received, stack(states, cohort), local)
        keep(states, cohort, new)
        weights, steps = problem.weights_of(cohort), problem.steps_of(cohort)
        mean = means(upload, method.uplink(setting), weights)
        round = Round(t, tuple(cohort), setting, 0, weights, steps)
        server = dict(method.server(server, mean, round))
        give_feedback(method, server, states, cohort, replace(setting, cohort=len(cohort)))
        trace.x.append(server["x"])
        trace.uploads.append({i: row_of(upload, row) for row, i in enumerate(cohort)})
        trace.states.append(dict(states))
        trace.servers.append(server)
    return trace


def select(values: State, fields: Fields) -> State:
    """The values that a message with these fields carries."""
    return {name: values[name] for name in fields}


def means(upload: State, uplink: Fields, weights: tuple[int, ...] | None = None) -> State:
    """The means that the server step gets; for the codec `PerClient`, the rows of all clients."""
    assert set(upload) == set(uplink)
    values = {name: value.to(F64) for name, value in upload.items()}
    if weights:
        w = torch.tensor(weights, dtype=F64)
        return {k: w @ v / w.sum() for k, v in values.items()}
    return {k: v if isinstance(uplink[k], PerClient) else v.mean(0) for k, v in values.items()}


def give_feedback(
    method: Method, server: State, states: States, cohort: list[int], setting: Setting
) -> None:
    """Apply the feedback after a round if the method has any.

    setting.cohort is the number of participants.
    """
    fields = method.feedback(setting)
    if fields:
        receivers = cohort if method.feedback_to == "participants" else list(states)
        received = select(server, fields)
        keep(states, receivers, method.apply_feedback(received, stack(states, receivers), setting))


def stack(states: States, clients: list[int]) -> State:
    return {k: torch.stack([states[i][k] for i in clients]) for k in states[clients[0]]}


def row_of(values: State, row: int) -> State:
    return {name: value[row] for name, value in values.items()}


def keep(states: States, clients: list[int], new: State) -> None:
    for row, i in enumerate(clients):
        states[i] = row_of(new, row)


def mean_over_clients(trace: Trace, name: str) -> list[Tensor]:
    """The mean over all clients of one of their states, after every round."""
    return [torch.stack([s[name] for s in states.values()]).mean(0) for states in trace.states]


def lion(
    problem: Quadratics,
    x: Tensor,
    rounds: int,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> list[Tensor]:
    """Lion (Chen et al.) on the full gradient of client 0: x before and after every step."""
    m, xs = torch.zeros_like(x), [x]
    for _ in range(rounds):
        g = problem.gradient([0], x[None])[0]
        u = torch.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g
        x = x - lr * (u + weight_decay * x)
        xs.append(x)
    return xs


def same(one: list[Tensor], other: list[Tensor], rtol: float = 1e-12, atol: float = 1e-13) -> None:
    """Assert that two trajectories are equal up to rounding."""
    assert len(one) == len(other)
    for a, b in zip(one, other):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def random_cohorts(m: int, n: int, rounds: int, seed: int = 1) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [sorted(torch.randperm(m, generator=g)[:n].tolist()) for _ in range(rounds)]


def ragged_cohorts(m: int, n: int, rounds: int, seed: int = 2) -> list[list[int]]:
    """Cohorts of n clients of which 1 to n take part; the others are lost."""
    g = torch.Generator().manual_seed(seed)
    left = [
        cohort[: 1 + int(torch.randint(n, (), generator=g))]
        for cohort in random_cohorts(m, n, rounds - 1, seed)
    ]
    return [list(range(n)), *left]


def start(dim: int = 7, seed: int = 3) -> Tensor:
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def normal(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def signs(*shape: int, seed: int = 5) -> Tensor:
    return torch.sign(normal(*shape, seed=seed))
