"""Stacks of convolutions: which modules are some, and that their gradient is that of autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsmu_ray.config.validation import parse
from fedsmu_ray.models import registry
from fedsmu_ray.models.conv_stack import ConvStack


def stack(*layers, flat=None):
    """A module for images of 3x12x12 with these layers, then those for flat inputs."""
    torch.manual_seed(3)
    module = nn.Sequential(*layers, *(flat or (nn.Flatten(), nn.LazyLinear(5))))
    module(torch.zeros(2, 3, 12, 12))
    return module


STACKS = {
    "two layers": lambda: stack(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU()),
    "pooled": lambda: stack(nn.Conv2d(3, 4, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "pooled before": lambda: stack(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU()),
    "tanh": lambda: stack(nn.Conv2d(3, 4, 5), nn.Tanh(), nn.MaxPool2d(3, 2, 1), nn.Sigmoid()),
    "overlapping": lambda: stack(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 1)),
    "ceiling": lambda: stack(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
    "dilated pool": lambda: stack(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
    "stride": lambda: stack(nn.Conv2d(3, 6, 3, 2, 1, 1, 3), nn.Conv2d(6, 4, (1, 3), dilation=2)),
    "no bias": lambda: stack(
        nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), flat=(nn.Flatten(), nn.LazyLinear(5, bias=False))
    ),
    "nested": lambda: stack(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()))),
    "several linear": lambda: stack(
        nn.Conv2d(3, 4, 3), flat=(nn.Flatten(), nn.LazyLinear(9), nn.ReLU(), nn.Linear(9, 5))
    ),
    "no linear": lambda: stack(nn.Conv2d(3, 5, 12), nn.Tanh(), flat=(nn.Flatten(),)),
}


def check_gradient(module, inputs):
    module, inputs = module.double(), inputs.double()
    targets, params = torch.arange(len(inputs)) % 5, list(module.parameters())
    loss = F.cross_entropy(module(inputs), targets)
    wanted, given = torch.autograd.grad(loss, params), inputs.clone()
    found, h = ConvStack.of(module).gradient([p.detach() for p in params], inputs, targets)
    torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(h, list(wanted), rtol=1e-9, atol=1e-12)
    assert not found.requires_grad and torch.equal(inputs, given)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_the_gradient_is_that_of_autograd(name, order):
    inputs = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    check_gradient(STACKS[name]().to(memory_format=order), inputs.contiguous(memory_format=order))


def test_of_equal_maxima_the_same_one_counts():
    """Whole windows of zeros after ReLU, and windows with the same value everywhere."""
    module = STACKS["pooled"]()
    with torch.no_grad():
        module[0].bias.copy_(torch.tensor([-1.0, 1.0, 0.0, 2.0]))
    inputs = torch.zeros(3, 3, 12, 12)
    inputs[1, :, :4], inputs[2] = 1.0, 0.5
    check_gradient(module, inputs)


def test_lenet_is_one():
    model = parse({"model": {"name": "lenet", "filters": 4}}).model
    module = registry.build("lenet", model, (3, 32, 32), 10, 0, None)
    check_gradient(module, torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def conv(**options):
    return nn.Conv2d(3, 4, 3, **options)


def with_hook(add):
    module = STACKS["two layers"]()
    add(module)
    return module


def twice():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return stack(layer, nn.ReLU(), layer)


def with_a_parameter_of_its_own():
    module = STACKS["pooled"]()
    module.register_parameter("scale", nn.Parameter(torch.ones(1)))
    return module


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        lambda: stack(conv(padding="same")),
        lambda: stack(conv(padding=1, padding_mode="circular")),
        lambda: stack(conv().requires_grad_(False)),
        lambda: stack(conv(), nn.BatchNorm2d(4)),
        lambda: stack(conv(), nn.Dropout(0.5)),
        lambda: stack(conv(), nn.AvgPool2d(2)),
        lambda: stack(conv(), nn.ReLU(), nn.Tanh()),
        lambda: stack(nn.ReLU(), conv()),
        lambda: stack(conv(), nn.Softplus()),
        lambda: stack(Residual(nn.Conv2d(3, 3, 3, padding=1))),
        lambda: stack(conv(), flat=(nn.LazyLinear(5), nn.Flatten())),
        lambda: stack(conv(), flat=(nn.Flatten(2), nn.LazyLinear(5))),
        lambda: stack(conv(), flat=(nn.Flatten(), nn.Tanh(), nn.LazyLinear(5))),
        lambda: stack(),
        lambda: with_hook(lambda m: m.register_forward_hook(lambda _, x, y: 2 * y)),
        lambda: with_hook(lambda m: m[1].register_full_backward_hook(lambda *_: None)),
        lambda: with_hook(lambda m: m[0].weight.register_hook(lambda g: 2 * g)),
        twice,
        with_a_parameter_of_its_own,
    ],
)
def test_whatever_does_more_is_no_stack(module):
    assert ConvStack.of(module()) is None
