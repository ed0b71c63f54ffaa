"""Training several clients in one computation: where it is done, and that it is the same."""

from math import inf

import pytest
import torch
from torch import nn

from fedsmu_ray.models import batched
from fedsmu_ray.numerics.parameters import Layout, call
from tests.helpers.models import CIFAR, TEXT, build, inputs_of

PLAIN = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def mlp(*layers):
    return nn.Sequential(nn.Linear(6, 5), *layers, nn.Linear(5, 3))


@pytest.mark.parametrize(
    "model, together",
    [
        (lambda: build({"name": "mlp", "hidden": [16]}, CIFAR, 80), True),
        (lambda: build({"name": "mlp", "hidden": [200]}, CIFAR, 80), False),  # large products
        (lambda: build({"name": "lenet"}, CIFAR, 80), False),
    ],
    ids=["small", "large", "convolutions"],
)
def test_clients_of_small_products_train_together(model, together):
    found = batched.batched(model(), inputs_of(CIFAR))
    assert (found is not None and found.least < inf) == together


def hooked():
    module = mlp(nn.ReLU())
    module[0].weight.register_hook(lambda grad: 2 * grad)
    return module


@pytest.mark.parametrize(
    "module",
    [
        lambda: mlp(nn.Dropout(0.5)),
        lambda: mlp(nn.RReLU(inplace=True)),
        lambda: nn.GRU(6, 3),
        lambda: build({"name": "char_lstm"}, TEXT, 80),
        hooked,
    ],
    ids=["dropout", "draws", "GRU", "LSTM", "hook on a parameter"],
)
def test_what_only_one_client_can_compute_trains_alone(module):
    module = module()
    inputs = inputs_of(TEXT) if hasattr(module, "lstm") else PLAIN
    assert batched.batched(module, inputs) is None


class Softplus(nn.Module):
    """A stack with another activation, in another form."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(nn.functional.softplus(self.layer(self.layer(x))))


@pytest.mark.parametrize(
    "module", [Softplus, lambda: mlp(nn.LayerNorm(5)), lambda: mlp(nn.ReLU())], ids=str
)
def test_vectorized_gradients_are_those_of_each_client(module):
    module = module()
    check_gradient(batched.vectorized(module), module)


def check_gradient(compute, module, shape=(6,)):
    """The gradients of three models on batches of 4, with 3 and 2 samples that count."""
    layout, draw = Layout.of(module), torch.Generator().manual_seed(1)
    x = torch.randn(3, layout.dim, generator=draw)
    inputs = torch.randn(3, 4, *shape, generator=draw)
    targets = torch.randint(3, (3, 4), generator=draw)
    sizes = torch.tensor([4, 3, 2])[:, None]
    weight = (torch.arange(4) < sizes) / sizes
    losses, found = compute(layout.views(x.requires_grad_()), inputs, targets, weight)
    for i, n in enumerate(sizes[:, 0].tolist()):
        y = x[i].detach().requires_grad_()
        outputs = call(module, layout.named(layout.views(y)), inputs[i, :n])
        loss = nn.functional.cross_entropy(outputs, targets[i, :n])
        (wanted,) = torch.autograd.grad(loss, y)
        torch.testing.assert_close(losses[i], loss.detach())
        got = torch.cat([piece[i].reshape(-1) for piece in found])
        torch.testing.assert_close(got, wanted)


def test_how_many_clients_it_takes():
    assert batched.batched(mlp(nn.ReLU()), PLAIN).least == 2
    assert batched.batched(mlp(nn.LayerNorm(5)), PLAIN).least == 5
    large = batched.batched(nn.Linear(400, 400), torch.zeros(2, 400))
    assert large.stack and large.least == inf
    assert batched.batched(mlp(nn.ReLU()), PLAIN, bfloat16=True).stack is None
