"""Elementwise passes have the bits of their formulas, compiled or not, at every size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsmu_ray.algorithms.base import Round, Setting
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.errors import ClientError
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.numerics import passes, streams
from tests.helpers.quadratics import normal

# (clients, dim) below, just above and far above a chunk of 131,072 coordinates.
SIZES = [(1, 1), (3, 65), (2, 777), (1, 131_073), (2, 300_001)]
LARGE = passes.COMPILED_FROM


@pytest.fixture(params=["kernels", "formulas"])
def path(request, monkeypatch):
    monkeypatch.setattr(passes, "COMPILED_FROM", 1 if request.param == "kernels" else 1 << 40)


def setting(dim):
    return Setting((dim,), 10, 2, 1, 0.1)


def trained(y):
    """A solver of clients 3, 4, ... whose local training returns y."""
    trainer = SimpleNamespace(seed=5, local=SimpleNamespace(lr=0.1, clip_norm=None))
    solver = GroupSolver(trainer, 2, 3 + torch.arange(len(y)), setting(y.shape[-1]))
    solver.train = lambda x: y
    return solver


def plain_sign(v, zero_rule):
    u = torch.sign(v).to(torch.int8)
    if zero_rule == "zero":
        return u
    key = streams.keys(5, "compressor", 2, 3 + torch.arange(len(v)))[:, None]
    coin = 2 * (streams.words(key, torch.arange(v.shape[-1])) & 1) - 1
    return torch.where(v == 0, 1 if zero_rule == "plus" else coin, u).to(torch.int8)


@pytest.mark.parametrize(
    "dim, like, compiled",
    [
        (LARGE, None, True),
        (LARGE - 1, None, False),
        (LARGE, torch.zeros(1), True),
        (LARGE - 1, torch.zeros(1), False),
        (LARGE, torch.zeros(1, dtype=torch.float64), False),
        (LARGE, torch.zeros(1, device="meta"), False),
    ],
)
def test_passes_are_compiled_for_large_float32_models_on_the_cpu(dim, like, compiled):
    assert passes.is_compiled(dim, like) is compiled


@pytest.mark.parametrize("clients, dim", SIZES)
@pytest.mark.parametrize("rule", ["random", "plus", "zero"])
def test_client_and_server_step_have_the_bits_of_their_formulas(path, clients, dim, rule):
    x = normal(dim).float()
    y, m = normal(clients, dim, seed=6).float(), normal(clients, dim, seed=7).float()
    y[:, ::9], m[:, ::9] = x[::9], 0  # exact zeros
    y[:, 4::50], m[:, 4::50] = x[4::50] * (1 + 2**-23), 1e-45  # and values close to zero
    method = FedSMU(beta2=0.99, zero_rule=rule)
    solver = trained(y)
    upload, state = method.client({"x": x}, {"m": m}, solver)
    v = 0.9 * m + (1 - 0.9) * (y - x)
    assert solver.zeros == int((v == 0).sum()) >= clients
    assert torch.equal(upload["u"], plain_sign(v, rule))
    assert torch.equal(trained(y).sign(v, rule), upload["u"])
    assert torch.equal(state["m"], 0.99 * m + (1 - 0.99) * (y - x))
    u = normal(dim, seed=8).float()
    after = method.server({"x": x}, {"u": u}, Round(1, (3,), setting(dim), 5))["x"]
    assert torch.equal(after, x + 0.015 * (u - 0.01 * x))


@pytest.mark.parametrize("clients, dim", SIZES)
def test_momentum_sign_says_whether_a_sign_is_zero(path, clients, dim):
    y, x = 1 + normal(clients, dim).float().abs(), torch.zeros(dim)
    m = torch.zeros(clients, dim)
    u, new, any_zero = passes.momentum_sign(y, x, m, 0.9, 0.8)
    assert u.dtype == torch.int8 and (u == 1).all() and any_zero is False
    assert torch.equal(new, 0.8 * m + (1 - 0.8) * (y - x))
    for value in (0.0, float("nan")):
        y[-1, dim // 2] = value
        u, _, any_zero = passes.momentum_sign(y, x, m, 0.9, 0.8)
        assert any_zero is True and (u == 0).nonzero().tolist() == [[clients - 1, dim // 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decayed_step_has_the_bits_of_its_formula(path, dtype):
    x, u = normal(1000).to(dtype), normal(1000, seed=6).to(dtype)
    assert torch.equal(passes.decayed_step(x, u, 0.3, 0.01), x + 0.3 * (u - 0.01 * x))


def test_a_client_without_momentum_and_a_momentum_shared_by_all_clients(path):
    x, y, m = normal(1000).float(), normal(3, 1000, seed=6).float(), normal(1000, seed=7).float()
    assert FedSMU(beta1=0).client({"x": x}, {}, trained(y))[1] == {}
    u, new = trained(y).momentum_sign(y, x, m, 0.9, 0.8, "zero")
    assert torch.equal(u, torch.sign(0.9 * m + (1 - 0.9) * (y - x)).to(torch.int8))
    assert torch.equal(new, 0.8 * m + (1 - 0.8) * (y - x))


@pytest.mark.parametrize("rule", ["random", "plus", "zero"])
def test_nan_never_becomes_a_sign(path, rule):
    y, m = normal(2, 200).float(), torch.zeros(2, 200)
    m[1, 130] = np.nan
    with pytest.raises(ClientError, match="round 2, client 4: the update holds NaN"):
        trained(y).momentum_sign(y, torch.zeros(200), m, 0.9, 0.9, rule)
    with pytest.raises(ClientError, match="round 2, client 4: the update holds NaN"):
        trained(y).sign(m, rule)
