"""Rates over the rounds: their values, and that methods and local training use them."""

import math

import pytest
import torch

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.config.schedule import ScheduleConfig
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.schedules import rate_factor
from tests.helpers.experiments import inline, inline_executor, problem_of

CONSTANT = {"profile": "paper"}


@pytest.mark.parametrize(
    "schedule, factors",
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"kind": "step", "factor": 0.5, "every": 2}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"kind": "exponential", "factor": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        ({"kind": "linear", "final": 0.4}, [1, 0.9, 0.8, 0.7, 0.6, 0.5]),
        ({"kind": "linear", "warmup": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"warmup": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
    ],
)
def test_factors(schedule, factors):
    found = [rate_factor(ScheduleConfig(**schedule), t, 6) for t in range(1, 7)]
    assert found == pytest.approx(factors)


def test_cosine_is_that_of_pytorch():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=0.1)
    schedule = ScheduleConfig("cosine", final=0.1)
    for t in range(1, 10):
        assert rate_factor(schedule, t, 9) == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    assert rate_factor(ScheduleConfig("cosine"), 9, 9) > 0  # some methods divide by the rate


def with_local(schedule, **algorithm):
    local = {"epochs": 2, "batch_size": 20, "schedule": schedule}
    return problem_of({"name": "fedavg", **CONSTANT, **algorithm}, local=local)


def test_one_round_at_a_rate_is_one_at_that_rate():
    """Warm-up over two rounds: the first has half the rate."""
    half = problem_of(
        {"name": "fedavg", **CONSTANT},
        local={"epochs": 2, "batch_size": 20, "lr": 0.05},
        federation={"rounds": 1, "cohort": 7},
    )
    executor = inline_executor(with_local({"warmup": 2}))
    next(rounds(executor.problem, executor))
    found = executor.params()
    executor.close()
    assert (found == inline(half)[2]).all()


def test_a_constant_schedule_changes_no_bit():
    assert inline(with_local({}))[1] == inline(with_local({"kind": "constant"}))[1]
    assert inline(with_local({}))[1] != inline(with_local({"kind": "cosine"}))[1]


def test_an_exponential_server_schedule_is_the_decay_of_fedsmu():
    decayed = problem_of({"name": "fedsmu", **CONSTANT, "decay": 0.5})
    federation = {"rounds": 4, "cohort": 7, "eval_every": 2}
    schedule = {"kind": "exponential", "factor": 0.5}
    scheduled = problem_of(
        {"name": "fedsmu", **CONSTANT}, federation={**federation, "server_schedule": schedule}
    )
    torch.testing.assert_close(
        torch.tensor(inline(scheduled)[2]), torch.tensor(inline(decayed)[2]), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.server_rate])
def test_the_server_rate_of_every_method_is_scaled(name):
    federation = {"rounds": 2, "cohort": 5, "server_schedule": {"warmup": 1, "kind": "linear"}}
    problem = problem_of({"name": name}, federation=federation)
    rate = problem.method.server_rate
    last = problem.method_at(2)
    assert getattr(last, rate) == getattr(problem.method, rate)  # nothing behind it yet
    schedule = {"kind": "step", "factor": 0.5}
    problem = problem_of({"name": name}, federation={**federation, "server_schedule": schedule})
    assert getattr(problem.method_at(2), rate) == getattr(problem.method, rate) / 2
    assert math.isfinite(inline(problem)[0][-1].test_loss)


@pytest.mark.parametrize(
    "plain, problem",
    [
        ({"kind": "cosine", "factor": 0.5}, r"factor = 0.5: .*cosine does not read it \(only step"),
        ({"kind": "step"}, "factor = 1: the rate would stay as it is"),
        ({"warmup": 100}, "warmup = 100: with federation.rounds = 100 .* never"),
        ({"kind": "cosines"}, "did you mean cosine"),
    ],
)
def test_schedules_that_cannot_be_are_refused(plain, problem):
    for section, key in (("local", "schedule"), ("federation", "server_schedule")):
        with pytest.raises(ConfigError, match=f"{section}.{key}.*{problem}"):
            parse({section: {key: plain}})


def test_a_method_without_a_server_rate_has_no_server_schedule():
    plain = {"federation": {"server_schedule": {"kind": "cosine"}}, "algorithm": {"name": "feddyn"}}
    with pytest.raises(ConfigError, match="feddyn names no rate of its server's step"):
        parse(plain)


def test_the_lowest_rate_counts_for_methods_that_divide_by_it():
    local = {"lr": 1e-10, "schedule": {"kind": "exponential", "factor": 1e-3}}
    with pytest.raises(ConfigError, match="control variates are displacements divided by it"):
        Problem.of(parse({"algorithm": {"name": "scaffold"}, "local": local}))
