"""The compiled passes: the bits of the formulas they stand for, at every size."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.quadratics import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.algorithms.registry import FedSMU
from fedsmu_ray.errors import ClientError
from fedsmu_ray.federation import local_training
from fedsmu_ray.federation.local_training import Local
from fedsmu_ray.numerics import kernels, parameters, streams
from fedsmu_ray.wire import accumulators
from fedsmu_ray.wire.codecs import Sign

SIZES = [
    (1, 1),
    (3, 65),
    (2, 777),
    (1, 131_073),
    (2, 300_001),
]  # beside and beyond a block of bits, 131,072


@pytest.fixture(params=["kernels", "formulas"])
def path(request, monkeypatch):
    always(monkeypatch, request.param == "kernels")


def always(monkeypatch, compiled):
    for module in (accumulators, local_training, algorithms_base):
        monkeypatch.setattr(module, "LARGE", 1 if compiled else 1 << 40)


def trained(y):
    """Clients 3, 4, ... whose local training gave y."""
    local = Local(
        SimpleNamespace(seed=5, local=SimpleNamespace(lr=0.1, clip_norm=None)),
        2,
        3 + torch.arange(len(y)),
    )
    local_training.sgd = lambda x: y
    return local


def plain_sign(v, zero_rule):
    u = torch.sign(v).to(torch.int8)
    if zero_rule == "zero":
        return u
    key = streams.keys(5, "compressor", 2, 3 + torch.arange(len(v)))[:, None]
    coin = 2 * (streams.words(key, torch.arange(v.shape[-1])) & 1) - 1
    return torch.where(v == 0, 1 if zero_rule == "plus" else coin, u).to(torch.int8)


@pytest.mark.parametrize("clients, dim", SIZES)
@pytest.mark.parametrize("rule", ["random", "plus", "zero"])
def test_client_and_server_step_have_the_bits_of_their_formulas(path, clients, dim, rule):
    x, y, m = (
        normal(dim).float(),
        normal(clients, dim, seed=6).float(),
        normal(clients, dim, seed=7).float(),
    )
    y[:, ::9], m[:, ::9] = x[::9], 0  # exact zeros
    y[:, 4::50], m[:, 4::50] = x[4::50] * (1 + 2**-23), 1e-45  # and what is next to them
    method = FedSMU(beta2=0.99, zero_rule=rule)
    local = trained(y)
    upload, state = method.client({"x": x}, {"m": m}, local)
    v = 0.9 * m + (1 - 0.9) * (y - x)
    assert local_training.zeros == int((v == 0).sum()) >= clients
    assert torch.equal(upload["u"], plain_sign(v, rule)) and torch.equal(
        trained(y).sign(v, rule), upload["u"]
    )
    assert torch.equal(state["m"], 0.99 * m + (1 - 0.99) * (y - x))
    u = normal(dim, seed=8).float()
    after = method.server({"x": x}, {"u": u}, Round(1, (3,), None, 5))["x"]
    assert torch.equal(after, x + 0.015 * (u - 0.01 * x))


def test_no_momentum_and_a_momentum_for_all(path):
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


def test_blocks_change_no_draw(monkeypatch):
    monkeypatch.setattr(parameters, "BLOCK", 1)  # 64 columns
    v = normal(3, 777).float()
    key = streams.keys(5, "compressor", 2, 3 + torch.arange(3))[:, None]
    high = (streams.words(key, torch.arange(777)) >> 40) & (2**24 - 1)
    assert torch.equal(trained(v).uniform(v), high.float() / 2**24)


def mean_of_bits(rows, dim):
    positive = np.unpackbits(rows, axis=-1, count=dim, bitorder="little").sum(0, dtype=np.int32)
    return torch.from_numpy(2 * positive - np.int32(len(rows))).float() / len(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 700),
    st.integers(1, 30),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_votes_are_the_sum_of_the_unpacked_bits(count, dim, batch, seed, compiled):
    messages = np.random.default_rng(seed).integers(
        0, 256, (count, 33 + Sign().size(dim)), np.uint8
    )
    messages[:, -1] &= 255 >> (-dim % 8)
    messages.setflags(write=bool(seed % 2))
    rows = messages[:, 33:]  # at odd addresses, as in a message
    with pytest.MonkeyPatch.context() as patch:
        always(patch, compiled)
        counter = Sign().accumulator(dim, False)
        for start in range(0, count, batch):
            counter.add(rows[start : start + batch])
            if start % 4 == 0:
                counter.mean()  # a mean in between changes nothing
        assert torch.equal(counter.mean(), mean_of_bits(rows, dim))


@pytest.mark.parametrize("count, dim", [(9, 131_073), (40, 300_001), (300, 140_000)])
def test_votes_of_large_models(count, dim):
    rows = np.random.default_rng(count).integers(0, 256, (count, Sign().size(dim)), np.uint8)
    rows[:, -1] &= 255 >> (-dim % 8)
    counter = Sign().accumulator(dim, False)
    counter.add(rows)
    assert torch.equal(counter.mean(), mean_of_bits(rows, dim)) and counter.planes.any()


@pytest.mark.parametrize("count", [15, 16, 127, 128, 255, 256, 33_000, 70_000])
def test_votes_at_the_edges_of_the_digits(path, count):
    counter = Sign().accumulator(9, False)
    counter.add(np.broadcast_to(np.array([0b11110000, 1], np.uint8), (count, 2)))
    assert counter.mean().tolist() == [-1.0] * 4 + [1.0] * 5
    counter.add(np.array([[0, 0]], np.uint8))
    assert (
        counter.mean().tolist()
        == [-1.0] * 4 + [torch.tensor(float(count - 1)).div(count + 1).item()] * 5
    )


def test_small_models_do_without_the_compiler():
    config = {
        "data": {"dataset": "digits", "clients": 4},
        "federation": {"cohort": 2, "rounds": 1},
        "compute": {"executor": "inline"},
        "tracking": {"uri": None},
    }
    code = f"import sys; from fedsmu_ray import config, run; run(config.parse({config!r})); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["False"], done.stderr


def test_kernels_are_kept_on_disk_only_where_that_is_possible(monkeypatch):
    def refuse(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(kernels, "njit", refuse)
    assert kernels.compiled(len) == ("compiled", len)
