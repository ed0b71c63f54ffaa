"""Stacks of linear layers: which modules are some, and that their gradient is that of autograd."""

import pytest
import torch
from torch import nn

from fedsmu_ray.models.stack import Stack
from fedsmu_ray.numerics.parameters import Layout
from tests.models.test_batched import check_gradient, mlp

STACKS = {
    "relu": lambda: mlp(nn.ReLU(inplace=True)),
    "nested": lambda: mlp(nn.Tanh(), nn.Sequential(nn.Linear(5, 5, bias=False), nn.Sigmoid())),
    "no activation": lambda: mlp(),
    "activation at the end": lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh()),
    "one layer": lambda: nn.Linear(6, 3),
}


@pytest.mark.parametrize("name", STACKS)
def test_the_gradient_is_that_of_autograd(name):
    module = STACKS[name]()
    check_gradient(Stack.of(module).gradient, module)


@pytest.mark.parametrize("name", STACKS)
def test_steps_subtract_the_gradient(name):
    module = STACKS[name]()
    stack, layout, draw = Stack.of(module), Layout.of(module), torch.Generator().manual_seed(1)
    y = torch.randn(3, layout.dim, generator=draw)
    trained = y.clone()
    inputs = torch.randn(3, 2, 4, 6, generator=draw)
    targets = torch.tensor([[0, 2, 1, 1], [1, 0, 2, 0]]).expand(3, 2, 4)
    first = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0]])
    weight = torch.stack([first, torch.tensor([[0.5, 0.5, 0, 0]] * 3)], 1)
    batches = inputs, targets, weight
    losses = list(stack.sgd(layout.views(trained), *batches, [4, 2], 0.3))
    for step in range(2):
        loss, h = stack.gradient(layout.views(y), *(t[:, step] for t in batches))
        y = y - 0.3 * torch.cat([g.reshape(3, -1) for g in h], 1)
        torch.testing.assert_close(losses[step], loss)
    torch.testing.assert_close(trained, y)


def test_images_are_flattened():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    check_gradient(Stack.of(module).gradient, module, shape=(3, 2, 2))


def with_hook(add):
    module = mlp(nn.ReLU())
    add(module)
    return module


def twice():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied():
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[2].weight = module[0].weight
    return module


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def changed():
    module = mlp(nn.ReLU())
    module[0].forward = lambda x: 2 * x[:, :5]
    return module


@pytest.mark.parametrize(
    "module",
    [
        lambda: mlp(nn.Softplus()),
        lambda: mlp(nn.LayerNorm(5)),
        lambda: mlp(nn.Dropout(0.5)),
        lambda: mlp(nn.ReLU(), nn.Tanh()),
        lambda: mlp(nn.Flatten()),
        lambda: mlp(nn.Linear(5, 5).requires_grad_(False)),
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        lambda: Residual(nn.Linear(6, 6)),
        lambda: with_hook(lambda m: m.register_forward_hook(lambda _, x, y: 2 * y)),
        lambda: with_hook(lambda m: m[0].register_forward_pre_hook(lambda _, x: x)),
        lambda: with_hook(lambda m: m[1].register_full_backward_hook(lambda *_: None)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Flatten()),
        twice,
        tied,
        changed,
    ],
)
def test_whatever_does_more_is_no_stack(module):
    assert Stack.of(module()) is None


def test_a_frozen_bias_is_no_stack():
    module = mlp(nn.ReLU())
    module[0].bias.requires_grad_(False)
    assert Stack.of(module) is None


def test_a_confident_model_has_a_finite_loss():
    module = nn.Linear(2, 2)
    params = [torch.tensor([[[1e4, 0.0], [0.0, 0.0]]]), torch.zeros(1, 2)]
    inputs, targets = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0]])
    losses, gradient = Stack.of(module).gradient(params, inputs, targets, torch.ones(1, 1))
    assert losses.tolist() == [0] and all(not g.any() for g in gradient)
