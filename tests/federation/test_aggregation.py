"""Uploads that stay in a process count, and are rounded, like those that are sent as messages."""

import pytest
import torch

from fedsmu_ray.federation.aggregation import Aggregator
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.server import Server
from fedsmu_ray.wire import message
from tests.helpers.experiments import problem_of

GROUPS = [(0, (4, 5, 7)), (3, (9,)), (4, (11, 20))]


@pytest.mark.parametrize("uniformity", [False, True])
def test_uploads_as_they_are_have_the_bits_and_the_length_of_messages(uniformity):
    problem = problem_of({"name": "fedavg"})
    draw = torch.Generator().manual_seed(1)
    sent = Aggregator(problem, 1, uniformity)
    uploads = {p: torch.randn(len(c), problem.dim, generator=draw) for p, c in GROUPS}
    for position, clients in GROUPS:
        encoded = message.encode(problem.uplink, {"delta": uploads[position]}, 1, clients)
        sent.receive(position, clients, encoded)
    for order in ([0, 1, 2], [2, 0, 1]):
        stayed = Aggregator(problem, 1, uniformity)
        given = {position: values.clone() for position, values in uploads.items()}
        for position, clients in (GROUPS[i] for i in order):
            stayed.add(position, clients, {"delta": given[position]})
        assert torch.equal(stayed.mean()["delta"], sent.mean()["delta"])
        assert stayed.nbytes == sent.nbytes and stayed.largest == sent.largest
        assert stayed.participants([]) == sent.participants([])
        assert not uniformity or stayed.uniformity() == sent.uniformity()
        assert all(torch.equal(given[position], uploads[position]) for position in given)


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({}, True),
        ({"model": {"name": "import:tests.helpers.models:dropout_mlp"}}, False),
        ({"algorithm": {"name": "fedsmu"}}, False),
    ],
    ids=["dense", "user code", "signs"],
)
def test_only_dense_uploads_of_the_packages_own_code_stay(changes, stays):
    """The user's code might change a tensor later; signs are smaller than their sum."""
    algorithm = changes.pop("algorithm", {"name": "fedavg"})
    problem = problem_of(algorithm, **changes)
    server, worker = Server(problem), ClientWorker(problem)
    broadcast = server.open_round(1, False)
    output = worker.train(1, (3, 5), broadcast, [None, None])
    assert output.may_stay == stays
    # Either way they are the same uploads.
    decoded = message.decode(problem.uplink, output.messages, problem.dim, 1, (3, 5))
    assert all(torch.equal(decoded[name], values) for name, values in output.uploads.items())
    output.pass_on(0, (3, 5), server)
    assert server.step().uplink_bytes == output.messages.nbytes


UNEQUAL = {"data": {"clients": 30, "partition": {"sigma": 1.0}}}


@pytest.mark.parametrize("name", ["fedavg", "fedsmu"])
def test_weights_are_those_of_the_participants_however_they_arrive(name):
    problem = problem_of({"name": name}, federation={"weighting": "samples"}, **UNEQUAL)
    draw = torch.Generator().manual_seed(1)
    field, codec = next(iter(problem.uplink.items()))
    values = {p: torch.randn(len(c), problem.dim, generator=draw) for p, c in GROUPS}
    values = {p: v if name == "fedavg" else v.sign().to(torch.int8) for p, v in values.items()}
    sent, parts = Aggregator(problem, 1), Aggregator(problem, 1)
    for position, clients in reversed(GROUPS):
        encoded = message.encode(problem.uplink, {field: values[position]}, 1, clients)
        sent.receive(position, clients, encoded)
        part = Aggregator(problem, 1)
        if name == "fedavg":
            part.add(position, clients, {field: values[position]})
            parts.merge(part.subtotal())
        else:
            parts.receive(position, clients, encoded)
    assert torch.equal(sent.mean()[field], parts.mean()[field])
    clients = [client for _, group in GROUPS for client in group]
    weights = problem.partition.sizes[clients].double()
    assert len(set(weights.tolist())) > 1
    expected = weights @ torch.cat(list(values.values())).double() / weights.sum()
    assert torch.allclose(sent.mean()[field].double(), expected, rtol=1e-5, atol=1e-6)
    assert codec.size(problem.dim) == problem_of({"name": name}).uplink[field].size(problem.dim)
