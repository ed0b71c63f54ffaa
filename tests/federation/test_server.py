"""The server: groups in any order, invalid messages, missing cohort positions."""

import re
from dataclasses import replace

import pytest
import torch

from fedsmu_ray.algorithms.registry import METHODS
from fedsmu_ray.errors import DivergenceError, ExperimentError
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.tasks import RejectedMessages
from fedsmu_ray.wire import message
from tests.helpers.experiments import inline, problem_of


def upload(problem, clients, round=1):
    values = {"delta": torch.arange(1.0, len(clients) + 1)[:, None].expand(-1, problem.dim) * 1e-3}
    return message.encode(problem.uplink, values, round, clients)


def test_server_takes_groups_in_any_order_and_adds_in_cohort_order():
    problem = problem_of({"name": "fedavg"})
    groups = [(0, (4, 5)), (2, (9,)), (3, (11, 20))]
    models = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        server = Server(problem)
        server.open_round(1, False)
        for i in order:
            server.receive(*groups[i], upload(problem, groups[i][1]))
        assert server.step().participants == 5
        models.append(server.sha256())
    assert len(set(models)) == 1


def test_server_rejects_altered_or_outdated_messages_and_accepts_a_replacement():
    problem = problem_of({"name": "fedavg"})
    altered = upload(problem, [3], round=2)
    altered[0, 500] ^= 1
    nan = message.encode(
        problem.uplink, {"delta": torch.full((1, problem.dim), float("nan"))}, 2, [3]
    )
    server, undisturbed = Server(problem), Server(problem)
    undisturbed.open_round(2, False)
    server.open_round(2, False)
    for bad, told in (
        (upload(problem, [3], round=1), "header says round 1, expected 2"),
        (altered, "client 3: checksum mismatch"),
        (nan, "round 2, client 3, field 'delta': holds NaN or Inf"),
        (altered[:, :-1], "expected 1 of"),
    ):
        server.receive(0, (3,), bad)
        rejected = server.step()
        assert (
            isinstance(rejected, RejectedMessages)
            and list(rejected.errors) == [0]
            and re.search(told, str(rejected.errors[0]))
        )
    for one in (server, undisturbed):
        one.receive(1, (7,), upload(problem, [7], round=2))
        one.receive(0, (3,), upload(problem, [3], round=2))
        assert one.step().participants == 2
    assert server.sha256() == undisturbed.sha256()


def test_server_steps_without_missing_positions():
    problem = problem_of({"name": "fedavg"})
    whole, gaps = Server(problem), Server(problem)
    whole.open_round(1, False)
    gaps.open_round(1, False)
    whole.receive(0, (3, 9), upload(problem, [3, 9]))
    gaps.receive(3, (9,), upload(problem, [3, 9])[1:])
    gaps.receive(1, (3,), upload(problem, [3, 9])[:1])
    assert gaps.step([2, 0]).participants == whole.step().participants == 2
    assert gaps.sha256() == whole.sha256()


def received(algorithm, **fields):
    """A server that got an upload of client 3, all 1e-3, and of client 9, with these values."""
    server = Server(problem := problem_of(algorithm))
    server.open_round(1, True)
    for position, client in enumerate((3, 9)):
        values = {name: torch.full((1, problem.dim), 1e-3) for name in problem.uplink}
        values |= {"R": torch.zeros(1, problem.dim)}
        values |= {"u": torch.ones(1, problem.dim, dtype=torch.int8)}
        if client == 9:
            for name, value in fields.items():
                values[name][0, 5] = value
        sent = message.encode(problem.uplink, {k: values[k] for k in problem.uplink}, 1, [client])
        server.receive(position, (client,), sent)
    return server


@pytest.mark.parametrize(
    "algorithm, fields, told",
    [
        ({"name": "fedavg", "lr": 1e38}, {"delta": 1e10}, "state 'x'"),
        ({"name": "fedams"}, {"z": 3.4e38}, "state 'nu'"),
        ({"name": "fedams"}, {"z": 1e20}, "state 'nu'"),
        ({"name": "fedadam"}, {"delta": -3.4e38}, "state 'v'"),
    ],
)
def test_a_state_that_is_not_finite_is_divergence(algorithm, fields, told):
    """Every field is checked; a finite upload is named if its square is what overflows."""
    server = received(algorithm, **fields)
    before = dict(server.state)
    ((field, value),) = fields.items()
    whole = (
        rf"round 1: training diverged \(the server's {told} holds NaN or Inf; largest upload: "
        rf"norm {re.escape(f'{abs(value):.3g}')} in '{field}' of client 9\); lower the server's "
    )
    with pytest.raises(DivergenceError, match=whole):
        server.step()
    assert server.state == before


def test_finite_uploads_whose_sum_is_not_are_divergence():
    server = Server(problem := problem_of({"name": "fed_global_lion"}))
    server.open_round(1, False)
    for position, client in enumerate((3, 9)):
        sent = message.encode(
            problem.uplink, {"delta": torch.full((1, problem.dim), 3e38)}, 1, [client]
        )
        server.receive(position, (client,), sent)
    with pytest.raises(DivergenceError, match="mean of the uploads 'delta' holds NaN or Inf"):
        server.step()


@pytest.mark.parametrize(
    "name, field", [("scaffold", "gamma"), ("fedlion", "mu"), ("fedsmu_mc", "m")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_upload_that_is_not_finite_names_its_client(name, field, value):
    server = received({"name": name}, **{field: value})
    rejected = server.step()
    assert str(rejected.errors[1]) == f"round 1, client 9, field '{field}': holds NaN or Inf"


def test_a_broadcast_that_is_not_finite_is_divergence_and_no_clients_failure(monkeypatch):
    """The error of the server is raised at once, whatever is to happen when clients fail."""
    problem = problem_of({"name": "fedavg"}, federation={"on_client_failure": "drop"})
    monkeypatch.setattr(Broken, "broadcast", lambda self, state: {"x": state["x"] / 0})
    broken = replace(problem, config=replace(problem.config, algorithm=Broken()))
    with pytest.raises(DivergenceError, match="round 1: .*the server's broadcast 'x' holds NaN"):
        inline(broken)


def wrong_field(self, server, mean, round):
    return {"x": mean["u"]}


def wrong_state(self, server, mean, round):
    return {"y": server["x"]}


def wrong_upload(self, received, state, local):
    return {"u": local.train(received["x"])}, {}


def undeclared_state(self, received, state, local):
    return {"delta": local.train(received["x"])}, {"m": received["x"]}


def wrong_broadcast(self, received, state, local):
    return {"delta": received["m"]}, {}


class Broken(METHODS["fedavg"]):
    """FedAvg with a hook that one of the functions above replaces."""


@pytest.mark.parametrize(
    "hook, function, match",
    [
        ("server", wrong_field, r"Broken.server raised KeyError: 'u' \(.*test_server.py:\d+\)"),
        ("server", wrong_state, "Broken.server returned y; it has to return x"),
        ("client", wrong_upload, r"Broken.client \(uploads\) returned u; it has to return delta"),
        ("client", undeclared_state, r"Broken.client \(states\) returned m; .* return nothing"),
        ("client", wrong_broadcast, r"round 1, client.*KeyError: 'm' \(.*test_server.py:\d+\)"),
    ],
)
@pytest.mark.parametrize("on_failure", ["fail", "drop"])
def test_a_broken_method_is_reported_with_its_hook(hook, function, match, on_failure, monkeypatch):
    monkeypatch.setattr(Broken, hook, function)
    problem = problem_of({"name": "fedavg"}, federation={"on_client_failure": on_failure})
    broken = replace(problem, config=replace(problem.config, algorithm=Broken()))
    with pytest.raises(ExperimentError, match=match):
        inline(broken)
