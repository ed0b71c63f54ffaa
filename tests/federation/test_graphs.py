"""Steps as graphs on a make-believe card: what is captured, what is not, and the same bits."""

import logging
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

from fedsmu_ray.federation import graphs
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.graphs import EagerSteps, StepGraphs
from fedsmu_ray.federation.server import Server
from tests.federation.test_client_on_card import EQUAL, on_the_card, problem_of
from tests.helpers.card import card


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Steps are captured after two, and reasons told anew in every test."""
    monkeypatch.setattr(graphs, "EAGER_STEPS", 2)
    graphs.tell.cache_clear()


def take(steps, batches):
    """Steps of a toy: y and the momentum m are updated, and c is read."""
    called = []
    m, y, c = steps.vectors

    def step(x, w):
        called.append(x.shape)
        rows = len(x)
        m[:rows].mul_(0.5).add_((x * w[:, None]).sum(1))
        y[:rows].sub_(m[:rows] * c[:rows])

    for batch in batches:
        steps.run(step, batch)
    steps.store(2)
    return len(called)


def vectors(device, rows=3):
    torch.manual_seed(rows)
    return [torch.rand(rows).to(device) for _ in range(3)]


def batches(device, shapes=((3, 4),) * 5):
    torch.manual_seed(0)
    both = [(torch.rand(shape[::-1]), torch.rand(shape[0])) for shape in shapes]
    return [(x.to(device).mT, w.to(device)) for x, w in both]


def expected(*rounds):
    found = [vectors("cpu", rows) for rows, _ in rounds]
    for values, (_, shapes) in zip(found, rounds):
        take(EagerSteps(values), batches("cpu", shapes))
    return [v.tolist() for values in found for v in values]


FULL = ((3, 4),) * 5
RAGGED = ((3, 4), (3, 2), (3, 4), (2, 4), (2, 4), (2, 4), (1, 3), (1, 4), (1, 4))


@pytest.mark.parametrize(
    "rounds, calls",
    [
        # Two are called before a capture, and one for it.
        ([(3, FULL)], [3]),
        ([(3, FULL), (3, FULL)], [3, 0]),  # other vectors of the same shape
        ([(3, FULL), (4, ((4, 4),) * 4), (3, FULL)], [3, 3, 0]),  # other vectors in between
        ([(3, RAGGED), (3, RAGGED)], [3 + 1 + 3 + 1 + 3, 2 + 2]),  # shapes seen once, and once more
        ([(3, ((3, 4),)), (3, ((3, 4),))], [1, 2]),  # counted over rounds
    ],
)
def test_replays_have_the_bits_of_the_steps(rounds, calls):
    wanted = expected(*rounds)
    with card():
        made, found = StepGraphs([]), []
        for (rows, shapes), number in zip(rounds, calls):
            values = vectors("cuda", rows)
            assert take(made.steps("toy", values), batches("cuda", shapes)) == number
            found += [v.tolist() for v in values]
    assert found == wanted


def test_batches_of_all_shapes_share_memory():
    with card():
        steps = StepGraphs([]).steps("toy", vectors("cuda"))
        take(steps, batches("cuda", ((3, 4), (3, 2), (2, 4), (1, 1))))
        places = {b.held.data_ptr() for shape in steps._shapes.values() for b in shape.batch}
    assert len(places) == 2  # of the samples, and of the weights


def test_each_kind_of_step_has_graphs_of_its_own():
    with card():
        made = StepGraphs([])
        for kind in ("one", "two", "one"):
            take(made.steps(kind, vectors("cuda")), batches("cuda"))
        assert take(made.steps("two", vectors("cuda")), batches("cuda")) == 0
        other = StepGraphs([])  # of another module
        assert take(other.steps("two", vectors("cuda")), batches("cuda")) == 3
        assert (made.captures, other.captures) == (2, 1)


def test_kinds_and_shapes_are_bounded(monkeypatch):
    monkeypatch.setattr(graphs, "SHAPES", 1)
    with card():
        made = StepGraphs([])
        two = batches("cuda", ((3, 4),) * 3 + ((3, 5),) * 3)
        assert take(made.steps("one", vectors("cuda")), two) == 3 + 3
        take(made.steps("two", vectors("cuda")), batches("cuda"))
        take(made.steps("one", vectors("cuda")), batches("cuda"))
        take(made.steps("three", vectors("cuda")), batches("cuda"))  # "two" was used longest ago
        assert take(made.steps("one", vectors("cuda")), batches("cuda")) == 0
        assert take(made.steps("two", vectors("cuda")), batches("cuda")) == 3


def test_a_result_is_written_where_the_vectors_came_from():
    with card():
        m, y, c = vectors("cuda")
        many = torch.zeros(4, 3, device="cuda")
        many[1], shared = y, c[:1].expand(3)
        take(StepGraphs([]).steps("toy", [m, many[1], shared]), batches("cuda"))
        assert many[1].tolist() != y.tolist() and many[[0, 2, 3]].sum() == 0


@contextmanager
def refused(error):
    """A card on which every capture fails."""

    @contextmanager
    def graph(*arguments):
        raise error
        yield

    with card() as used, patch.object(torch.cuda, "graph", graph):
        yield used


def test_steps_go_on_without_graphs_where_a_capture_fails(caplog):
    rounds = [(3, FULL), (4, ((4, 4),) * 4)]
    wanted, error = expected(*rounds), torch.AcceleratorError("CUDA error: not permitted")
    with refused(error), caplog.at_level(logging.WARNING):
        made, found = StepGraphs([]), []
        for rows, shapes in rounds:
            values = vectors("cuda", rows)
            calls = take(made.steps("toy", values), batches("cuda", shapes))
            assert calls == len(shapes)
            found += [v.tolist() for v in values]
    assert found == wanted
    (line,) = caplog.messages
    assert "one by one" in line and "AcceleratorError: CUDA error: not permitted" in line


def test_a_gpu_that_is_broken_after_a_capture_is_not_hidden():
    def broken():
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with (
        refused(torch.AcceleratorError("CUDA error: in the capture")),
        patch.object(torch.cuda, "synchronize", broken),
        pytest.raises(torch.AcceleratorError, match="unspecified launch failure"),
    ):
        take(StepGraphs([]).steps("toy", vectors("cuda")), batches("cuda"))


def test_steps_whose_replay_has_other_bits_are_not_replayed(caplog):
    with card(), caplog.at_level(logging.WARNING):
        y, calls = torch.zeros(2, device="cuda"), []
        steps = StepGraphs([]).steps("counting", [y])

        def step(x):
            calls.append(x)
            steps.vectors[0].add_(x, alpha=len(calls))  # a number that only Python knows

        for _ in range(5):
            steps.run(step, [torch.ones(2, device="cuda")])
        steps.store(1)
        assert y.tolist() == [1 + 2 + 4 + 5 + 6] * 2  # the third call was the capture
    (line,) = caplog.messages
    assert "other bits" in line


def test_a_step_that_diverges_is_replayed():
    with card() as used:
        steps = StepGraphs([]).steps("diverging", [torch.zeros(2, device="cuda")])
        for _ in range(4):
            steps.run(lambda x: steps.vectors[0].add_(x), [torch.full((2,), torch.nan).cuda()])
        assert used.launches["graph"] == 3


def test_steps_that_draw_are_not_replayed(caplog):
    with card() as used, caplog.at_level(logging.WARNING):
        steps = StepGraphs([]).steps("drawing", [torch.zeros(2, device="cuda")])
        seen = []

        def step(x):
            seen.append(torch.nn.functional.dropout(x))

        for _ in range(5):
            steps.run(step, [torch.ones(2, device="cuda")])
        assert len(seen) == 5 and not used.launches["graph"]
    (line,) = caplog.messages
    assert "draws random numbers" in line


def test_steps_of_the_users_code_are_not_replayed(caplog):
    model = {"name": "import:tests.helpers.models:dropout_mlp"}
    with card(), caplog.at_level(logging.WARNING):
        worker = ClientWorker(on_the_card(problem_of(model=model)))
    assert worker.trainer.graphs is None
    assert [line for line in caplog.messages if "import:" in line and "one by one" in line]


def test_a_module_whose_layers_are_known_is_replayed_whoever_wrote_it():
    model = {"name": "import:tests.helpers.odd_models:mlp"}
    with card():
        assert ClientWorker(on_the_card(problem_of(model=model))).trainer.graphs


@pytest.mark.parametrize("together", [1, 3])
def test_a_task_has_the_bits_of_any_other_time(together):
    """A task does not depend on which tasks came before it, and so on what was captured."""
    problem = on_the_card(problem_of(partition=EQUAL, together=together))
    sent = Server(problem).open_round(1, False)

    def train(worker, first=0):
        clients = list(range(first, first + together))
        return worker.train(1, clients, sent, [None] * together)

    with card() as used:
        worker = ClientWorker(problem)
        one = train(worker)
        train(worker, 4)
        used.clear()
        again, other = train(worker), train(worker, 4)
        replays = used.launches["graph"]
        new = train(ClientWorker(problem), 4)
    assert replays > used.launches["graph"] - replays  # the first steps of a process are not
    assert one.messages.tobytes() == again.messages.tobytes() and one.report == again.report
    assert other.messages.tobytes() == new.messages.tobytes() and other.report == new.report
    assert all((other.states[name] == new.states[name]).all() for name in new.states)
