"""The contract of a method: defaults, and the signs that a round computes on the server."""

from dataclasses import dataclass, replace

import pytest
import torch

from fedsmu_ray.algorithms.base import Method, Round, sign_codec
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from tests.helpers.quadratics import Quadratics, signs, simulate, start


@dataclass(frozen=True)
class Least(Method):
    """FedAvg with only the hooks that have no default."""

    def uplink(self, setting):
        return {"delta": Float32()}

    def client(self, received, state, local):
        return {"delta": local.train(received["x"]) - received["x"]}, {}

    def server(self, server, mean, round):
        return {"x": server["x"] + mean["delta"]}


def test_three_hooks_make_a_method():
    problem = Quadratics.random(4, steps=3)
    one, two = (simulate(method, problem, start(), 10) for method in (Least(), FedAvg()))
    assert all(torch.equal(a, b) for a, b in zip(one.x, two.x))


def test_defaults_are_those_of_stateless_clients_that_get_the_model():
    method, setting, x = Least(), Quadratics.random(2).setting(2), start()
    assert method.downlink(setting) == {"x": Float32()} and method.feedback(setting) == {}
    assert method.client_init(x) == {} and method.feedback_to == "participants"
    state = method.server_init(x)
    assert list(state) == ["x"] and state["x"] is x and method.broadcast(state) is state
    with pytest.raises(NotImplementedError, match="Least has feedback but no apply_feedback"):
        method.apply_feedback({}, {}, setting)


def test_the_share_is_that_of_the_participants():
    setting = replace(Quadratics.random(2).setting(2), clients=10, cohort=5)
    assert Round(1, (0, 4, 7), setting, seed=0).share == 0.3


def test_signs_that_can_be_zero_are_ternary():
    assert [sign_codec(rule) for rule in ("random", "plus", "zero")] == [
        Sign("random"),
        Sign("plus"),
        Trit(),
    ]


def test_majority_of_odd_cohorts_and_ties():  # [13]
    setting = Quadratics.random(2).setting(2)
    rounds = Round(1, (0, 1), setting, seed=0)
    odd = signs(5, 500).mean(0)
    assert set(rounds.sign(odd, "zero").tolist()) == {-1.0, 1.0}
    tied = torch.stack([signs(500), -signs(500)]).mean(0)  # two clients with opposite votes
    assert not rounds.sign(tied, "zero").any()
    coins = rounds.sign(tied, "random")
    assert set(coins.tolist()) == {-1.0, 1.0} and abs(coins.mean()) < 0.2
    assert torch.equal(coins, rounds.sign(tied, "random"))
    assert not torch.equal(coins, Round(2, (0, 1), setting, seed=0).sign(tied, "random"))
