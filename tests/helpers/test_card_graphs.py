"""The make-believe card's graphs: what would be wrong on a card is wrong, or raises, here."""

import pytest
import torch
from torch import nn

from tests.helpers.card import card


def captured(step):
    """A graph of a step, which was taken once before."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, None, stream, "thread_local"):
        step()
    return graph


def test_a_replay_computes_on_the_memory_of_the_capture():
    with card() as used:
        total, batch = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
        graph = captured(lambda: total.add_((batch * 2).relu().view(2, 1)[:, 0]))
        assert total.tolist() == [2, 2]  # what is captured is not executed
        used.clear()
        for value in (3.0, -1.0, 0.5):
            batch.fill_(value)
            graph.replay()
        assert total.tolist() == [9, 9]
        assert used.launches == {"aten.fill_": 3, "graph": 3}


def test_gradients_are_replayed():
    with card():
        torch.manual_seed(0)
        net, x = nn.Linear(3, 1).to("cuda"), torch.ones(2, 3, device="cuda")
        params, rates = list(net.parameters()), []

        def step():
            with torch.enable_grad():
                loss = net(x).square().sum()
            with torch.no_grad():
                for p, g in zip(params, torch.autograd.grad(loss, params)):
                    p.sub_(g, alpha=0.01)
            rates.append(loss.detach())

        graph = captured(step)
        before = net(x).square().sum().item()
        graph.replay()
        assert rates[-1].item() == before > net(x).square().sum().item()
        assert len(rates) == 2  # no Python runs in a replay


def test_a_tensor_that_is_made_anew_is_not_seen():
    with card():
        total, batch = torch.zeros(2, device="cuda"), [torch.ones(2, device="cuda")]
        graph = captured(lambda: total.add_(batch[0]))
        batch[0] = batch[0] + 4
        graph.replay()
        assert total.tolist() == [2, 2]


def test_results_of_a_capture_are_not_there_before_a_replay():
    with card():
        x, results = torch.ones(2, device="cuda"), []
        graph = captured(lambda: results.append(x + 1))
        assert results[1].isnan().all()
        graph.replay()
        assert results[1].tolist() == [2, 2]


def test_a_number_of_the_host_becomes_part_of_a_graph():
    with card():
        x, rate = torch.zeros(2, device="cuda"), torch.tensor(1.0)
        graph = captured(lambda: x.add_(rate))
        rate.fill_(5)
        graph.replay()
        assert x.tolist() == [2, 2]


def test_replays_draw_new_numbers():
    with card():
        x = torch.zeros(4, device="cuda")
        graph = captured(lambda: x.uniform_())
        seen = []
        for _ in range(2):
            torch.cuda.manual_seed_all(3)
            graph.replay()
            seen.append(x.tolist())
            graph.replay()
            seen.append(x.tolist())
        assert seen[:2] == seen[2:] and seen[0] != seen[1]


@pytest.mark.parametrize("wait", [lambda x: x.item(), lambda x: x.copy_(torch.ones(1)), bool])
def test_a_wait_during_a_capture_raises(wait):
    with card():
        x, stream = torch.zeros(1, device="cuda"), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with (
            pytest.raises(torch.AcceleratorError, match="stream is capturing"),
            torch.cuda.graph(graph, None, stream, "global"),
        ):
            x.add_(1)
            wait(x)
        assert x.tolist() == [0]
        with pytest.raises(AssertionError, match="without a capture"):
            graph.replay()


def test_streams_have_to_wait_for_each_other():
    with card():
        x, one, two = torch.zeros(1, device="cuda"), torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(one), pytest.raises(AssertionError, match="has not waited"):
            x.add_(1)
        one.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(one):
            x.add_(1)
        with pytest.raises(AssertionError, match="has not waited"):
            x.add_(1)
        two.wait_stream(one)  # and so for what this one has waited for
        with torch.cuda.stream(two):
            x.add_(1)
        torch.cuda.synchronize()
        assert x.add_(1).tolist() == [3]


def test_a_capture_needs_a_stream_of_its_own():
    with card(), pytest.raises(AssertionError, match="default stream"):
        current = torch.cuda.current_stream()
        with torch.cuda.graph(torch.cuda.CUDAGraph(), None, current, "global"):
            pass
