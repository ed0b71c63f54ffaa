"""The make-believe card itself: it computes as the CPU, and finds the errors it is made to find."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from fedsmu_ray.numerics.isolation import generator_states
from tests.helpers.card import CardTensor, DeviceMismatch, card, is_on_card

VALUES = torch.tensor([3.0, -1.0, 2.0, 0.0])


def gradients(device):
    """Gradients of a small network, of one model and of three models under vmap."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    net, inputs = net.to(device), torch.randn(3, 2, 1, 8, 8).to(device)
    labels = torch.arange(6).remainder(5).view(3, 2).to(device)
    F.cross_entropy(net(inputs[0]), labels[0]).backward()
    many = {n: p.detach().expand(3, *p.shape).clone() for n, p in net.named_parameters()}
    for values in many.values():
        values.requires_grad_()
    outputs = vmap(lambda p, x: functional_call(net, p, (x,)))(many, inputs)
    F.cross_entropy(outputs.flatten(0, 1), labels.flatten()).backward()
    return [t.grad.cpu() for t in (*net.parameters(), *many.values())]


def test_it_computes_with_the_bits_of_the_cpu():
    expected = gradients("cpu")
    with card() as used:
        found = gradients("cuda")
    assert used.launches["aten.convolution"] == 2
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_tensors_say_where_they_are():
    with card():
        x = VALUES.to("cuda")
        assert isinstance(x, CardTensor) and x.is_cuda and x.device == torch.device("cuda", 0)
        assert is_on_card(torch.zeros(2, device=x.device)) and is_on_card(torch.ones_like(x[:2]))
        assert x.to("cuda") is x and x.cuda() is x and x.to(torch.device("cuda", 0)) is x
        assert not is_on_card(x.cpu()) and not VALUES.is_cuda
        inside = []
        vmap(lambda row: inside.append((row.device.type, row.is_cuda)) or row)(x[None])
        assert inside == [("cuda", True)]


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + VALUES,
        lambda x: VALUES * x,
        lambda x: torch.cat([x, VALUES]),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: torch.where(VALUES > 0, x, 0),
        lambda x: VALUES[x.long().abs()],
        lambda x: x[:1].matmul(torch.ones(1, 2)),
        lambda x: x.add_(VALUES),
        lambda x: torch._foreach_add_([x], [VALUES]),
        lambda x: F.cross_entropy(x[None], torch.tensor([1])),
        lambda x: nn.Linear(4, 2)(x),
        lambda x: vmap(lambda row: row * torch.arange(4))(x[None]),
        lambda x: torch.gather(x, 0, torch.tensor([0])),
        lambda x: x.index_put((torch.tensor([0]).to("cuda"),), VALUES[:1]),
    ],
)
def test_tensors_of_two_devices_are_refused(mistake):
    with card(), pytest.raises(DeviceMismatch, match="two devices"):
        mistake(VALUES.to("cuda"))


def test_host_numbers_are_taken_where_cuda_takes_them():
    with card() as used:
        x = VALUES.to("cuda")
        used.clear()
        results = [x * torch.tensor(2.0), x.masked_fill(x > 0, torch.tensor(1.0)), x.clamp(max=1)]
        assert not used.waits and all(is_on_card(r) for r in results)


@pytest.mark.parametrize(
    "use, waits",
    [
        (lambda x: x[0].item(), 1),
        (lambda x: bool(x[0]), 1),
        (lambda x: int(x[0]) + float(x[1]), 2),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.to("cpu", torch.float64), 1),
        (lambda x: VALUES.to(x.device), 1),
        (lambda x: VALUES.to(x.device, non_blocking=True), 1),  # its memory is not pinned
        (lambda x: torch.tensor([1.0], device=x.device), 1),
        (lambda x: x.copy_(VALUES), 1),
        (lambda x: VALUES.clone().copy_(x), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: x[torch.tensor([0, 1])], 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.cuda.synchronize(), 1),
        (lambda x: x.sum() + x[1:3].mean(), 0),
        (lambda x: VALUES.pin_memory().to(x.device, non_blocking=True), 0),
        (lambda x: torch.empty(4, pin_memory=True).copy_(x, non_blocking=True), 0),
        (lambda x: torch.zeros(3, device=x.device).fill_(2.0), 0),
        (lambda x: torch.where(x > 0, x, 0.0), 0),
        (lambda x: VALUES.sum().item(), 0),
    ],
)
def test_waits_are_counted(use, waits):
    with card() as used:
        x = VALUES.to("cuda")
        used.clear()
        use(x)
        assert used.waits.total() == waits, used.waits


def test_waits_name_the_line_of_the_package():
    from fedsmu_ray.numerics import parameters

    with card() as used:
        parameters.is_finite(VALUES.to("cuda"))
    assert any(place.startswith("numerics/parameters.py:") for _, place in used.waits)


def test_launches_and_bytes_are_counted():
    with card() as used:
        x = torch.ones(4, 3).to("cuda")
        assert used.to_card == 48
        used.clear()
        y = x.t()[1:].reshape(2, 4).unsqueeze(0).detach()
        assert not used.launches.total()
        y.add_(1).mul_(2)
        torch._foreach_add_([x, y], [x, y])
        assert used.launches == {"aten.add_": 1, "aten.mul_": 1, "aten._foreach_add_": 1}
        torch._foreach_mul([x, x], [x[:1], x[:1]])  # of other shapes: not in one kernel
        assert used.launches["aten._foreach_mul"] == 2
        y.cpu()
        assert used.to_host == y.nbytes


def test_changes_in_place_reach_every_view():
    with card():
        flat = torch.zeros(12, device="cuda")
        layer = nn.Linear(3, 3).to("cuda")
        weight = layer.weight
        layer.weight.data = flat[:9].view(3, 3)
        flat += 1
        torch._foreach_mul_([flat[3:6]], 5.0)
        assert layer.weight is weight and isinstance(weight, nn.Parameter)
        assert layer.weight.tolist() == [[1] * 3, [5] * 3, [1] * 3]


def refused_pooling():
    x = torch.ones(1, 1, 5, 5, device="cuda", requires_grad=True)
    F.adaptive_avg_pool2d(x, 3).sum().backward()


def refused_padding():
    x = torch.ones(1, 1, 5, device="cuda", requires_grad=True)
    F.pad(x, (1, 1), mode="reflect").sum().backward()


def refused_sums():
    torch.ones(3, dtype=torch.int64, device="cuda").cumsum(0)  # this one is not
    torch.ones(3, device="cuda").cumsum(0)


@pytest.mark.parametrize("step", [refused_pooling, refused_padding, refused_sums])
def test_what_deterministic_mode_refuses_is_refused(step):
    with card():
        step()
        torch.use_deterministic_algorithms(True)
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            step()


def test_matrix_products_need_a_fixed_workspace(monkeypatch):
    with card():
        x = torch.ones(2, 2, device="cuda")
        torch.use_deterministic_algorithms(True)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with pytest.raises(AssertionError, match="cuBLAS"):
            x @ x
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        assert (x @ x).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray])
def test_numpy_cannot_read_the_card(read):
    with card(), pytest.raises(TypeError, match="convert cuda:0"):
        read(VALUES.to("cuda"))


def test_the_card_has_a_generator_of_its_own():
    with card():
        before = generator_states()
        torch.cuda.manual_seed_all(5)
        first = torch.rand(4, device="cuda")
        F.dropout(first)
        assert generator_states() == before
        torch.cuda.manual_seed_all(5)
        assert torch.equal(torch.rand(4, device="cuda"), first)


def test_lstm_and_gradients_that_are_not_there():
    with card():
        lstm = nn.LSTM(3, 4, batch_first=True).to("cuda")
        lstm(torch.ones(2, 5, 3).to("cuda"))[0].sum().backward()
        assert is_on_card(lstm.weight_ih_l0.grad)
        x = torch.ones(4, device="cuda", requires_grad=True)
        torch.split(x, [1, 3])[0].sum().backward()  # nothing for the second part
        assert x.grad.tolist() == [1, 0, 0, 0]


def test_nothing_is_left_behind():
    before = torch.get_num_threads(), torch.cuda.is_available(), torch.inference_mode
    with card():
        x = VALUES.to("cuda")
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(before[0] + 1)
    assert (torch.get_num_threads(), torch.cuda.is_available(), torch.inference_mode) == before
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(AssertionError, match="closed"):
        x + 1
