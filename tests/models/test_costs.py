"""The costs of a forward pass, and the memory order that follows from them."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedsmu_ray.models.costs import Costs, activations, memory_format, positions
from tests.helpers.models import CIFAR, TEXT, build, inputs_of


def test_costs_are_those_of_linear_layers_and_convolutions():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert Costs.of(module, torch.zeros(4, 6)) == (6 * 5 + 5 * 3, 0)
    lenet = build({"name": "lenet", "filters": 8}, CIFAR, 80)
    dense = 8 * 25 * 384 + 384 * 192 + 192 * 80
    convolutions = 28 * 28 * 8 * 75 + 10 * 10 * 8 * 200
    assert Costs.of(lenet, inputs_of(CIFAR)) == (dense, convolutions)


@pytest.mark.parametrize("shape, name", [(CIFAR, "lenet"), (CIFAR, "vit_s"), (TEXT, "char_lstm")])
def test_costs_are_those_that_pytorch_counts(shape, name):
    options = {"name": name, "patch": 8} if name == "vit_s" else {"name": name}
    module, inputs = build(options, shape, 80), inputs_of(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(inputs)
    assert sum(Costs.of(module, inputs)) == counter.get_total_flops() / (2 * len(inputs))


@pytest.mark.parametrize(
    "model, batch_size, last",
    [
        ({"name": "lenet", "filters": 8}, 10, True),
        ({"name": "resnet18_gn"}, 20, False),  # 3 positions: its last layers see single pixels
        ({"name": "resnet18_gn"}, 500, True),
        ({"name": "mlp"}, 20, False),
    ],
)
def test_channels_come_last_where_convolutions_see_many_positions(model, batch_size, last):
    found = memory_format(positions(build(model, CIFAR, 10), inputs_of(CIFAR)), batch_size)
    assert found == (torch.channels_last if last else torch.contiguous_format)


def test_activations_are_what_the_backward_pass_needs():
    module = nn.Sequential(nn.Flatten(), nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    assert activations(module, torch.zeros(6, 10)) == 4 * (10 + 20)  # inputs of the linear layers
