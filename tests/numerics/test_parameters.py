"""The flat parameter vector: round trip, chunked passes, and modules that are refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import parameters, streams


def build(name, shape, classes, seed):
    return registry.build(name, registry.find(name)(), shape, classes, seed)


def test_layout_round_trip_and_parameter_counts():
    for name, shape, classes, dim in (
        ("lenet", (3, 32, 32), 10, 797_962),
        ("lenet", (3, 32, 32), 100, 815_332),
        ("mlp", (1, 8, 8), 10, 55_210),
    ):
        module = build(name, shape, classes, 3)
        x = parameters.flatten(module)
        assert parameters.Layout.of(module).dim == len(x) == dim
        other = parameters.load_into(build(name, shape, classes, 4), x)
        assert torch.equal(parameters.flatten(other), x)


def test_views_have_the_shapes_of_the_parameters():
    module = torch.nn.Linear(3, 2)
    module.register_parameter("scale", torch.nn.Parameter(torch.tensor(5.0)))
    layout, x = parameters.Layout.of(module), parameters.flatten(module)
    views = layout.named(layout.views(x))
    assert {n: v.tolist() for n, v in views.items()} == {
        n: p.tolist() for n, p in module.named_parameters()
    }
    shapes = [tuple(view.shape) for view in layout.views(x.expand(4, -1))]
    assert shapes == [(4, *shape) for shape in layout.shapes]


def test_initialization_depends_only_on_the_seed():
    torch.manual_seed(99)
    state = torch.get_rng_state()
    one, two, three = (parameters.flatten(build("mlp", (1, 8, 8), 10, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), state)


def test_chunks_do_not_change_random_draws(monkeypatch):
    monkeypatch.setattr(parameters, "CHUNK", 1)  # 64 columns
    v = torch.zeros(3, 777)
    trainer = SimpleNamespace(seed=5, local=SimpleNamespace(lr=0.1, clip_norm=None))
    solver = GroupSolver(trainer, 2, 3 + torch.arange(3), Setting((777,), 10, 2, 1, 0.1))
    key = streams.keys(5, "compressor", 2, 3 + torch.arange(3))[:, None]
    high = (streams.words(key, torch.arange(777)) >> 40) & (2**24 - 1)
    assert torch.equal(solver.uniform(v), high.float() / 2**24)


def test_a_chunked_pass_gives_the_result_of_a_single_pass(monkeypatch):
    x = torch.arange(777.0)
    y = x.expand(3, -1) ** 0.5

    def step(first, x, y):
        return x + y, (y * 2).to(torch.float64)

    whole = step(0, x, y)
    monkeypatch.setattr(parameters, "CHUNK", 1)
    assert all(map(torch.equal, parameters.chunked(step, x, y), whole))


def test_read_only_arrays_become_tensors_without_a_copy():
    array = np.arange(5, dtype=np.float32)
    array.flags.writeable = False
    assert parameters.as_tensor(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize(
    "value, finite", [(1e38, True), (3e38, True), (np.nan, False), (-np.inf, False)]
)
def test_nan_and_infinities_are_not_finite(value, finite):
    assert parameters.is_finite(torch.tensor([0.0, value, value, 1.0])) is finite
