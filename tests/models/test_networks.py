"""Networks: the published parameter counts, gradients, and impossible sizes."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics import parameters
from tests.helpers.models import CIFAR, IMAGENET, TEXT, build, inputs_of

# model options, sample shape, classes, number of parameters, number of parameter tensors
COUNTS = [
    ({"name": "lenet"}, CIFAR, 10, 797_962, 10),
    ({"name": "lenet"}, CIFAR, 100, 815_332, 10),
    ({"name": "lenet", "filters": 128}, CIFAR, 10, 1_724_490, 10),
    ({"name": "resnet18_gn"}, CIFAR, 10, 11_181_642, 62),
    ({"name": "resnet18_gn"}, CIFAR, 100, 11_227_812, 62),
    ({"name": "resnet18_gn"}, (3, 64, 64), 200, 11_279_112, 62),
    ({"name": "resnet18_gn", "stem": "cifar"}, CIFAR, 10, 11_173_962, 62),
    ({"name": "vit_s"}, CIFAR, 10, 21_342_346, 152),
    ({"name": "vit_s"}, CIFAR, 100, 21_376_996, 152),
    ({"name": "vit_s", "patch": 8}, CIFAR, 10, 21_379_210, 152),
    ({"name": "vit_s", "patch": 8}, CIFAR, 100, 21_413_860, 152),
    ({"name": "vit_s", "patch": 16}, IMAGENET, 10, 21_669_514, 152),
    ({"name": "vit_s", "patch": 16, "image_size": 224}, CIFAR, 100, 21_704_164, 152),
    ({"name": "char_lstm"}, TEXT, 80, 133_520, 11),
    ({"name": "linear"}, (1, 28, 28), 10, 7_850, 2),
    ({"name": "mlp"}, (1, 28, 28), 10, 199_210, 6),
]


@pytest.mark.parametrize("options, shape, classes, count, tensors", COUNTS, ids=str)
def test_parameter_counts(options, shape, classes, count, tensors):  # oracle 34
    layout = parameters.Layout.of(build(options, shape, classes))
    assert (layout.dim, len(layout.names)) == (count, tensors)


@pytest.mark.parametrize("filters, count", [(64, 797_248), (128, 1_723_648)])
def test_the_papers_dimensions_count_weights_without_biases(filters, count):  # oracle 34
    module = build({"name": "lenet", "filters": filters})
    assert (
        sum(p.numel() for name, p in module.named_parameters() if name.endswith("weight")) == count
    )


@pytest.mark.parametrize(
    "options, shape",
    [
        ({"name": "linear"}, CIFAR),
        ({"name": "lenet"}, CIFAR),
        ({"name": "resnet18_gn", "stem": "cifar"}, (1, 16, 16)),
        ({"name": "vit_s", "patch": 8}, CIFAR),
        ({"name": "char_lstm"}, TEXT),
    ],
    ids=str,
)
def test_gradients_reach_the_vector(options, shape):
    """functional_call on views of the flat vector gives the module's outputs and gradients."""
    module = build(options, shape, 80)
    layout, x, inputs = (
        parameters.Layout.of(module),
        parameters.flatten(module).requires_grad_(),
        inputs_of(shape),
    )
    outputs = functional_call(module, layout.named(layout.views(x)), inputs)
    torch.testing.assert_close(outputs, module(inputs))
    targets = torch.tensor([1, 7])
    (got,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, targets), x)
    nn.functional.cross_entropy(module(inputs), targets).backward()
    torch.testing.assert_close(
        got, torch.cat([p.grad.reshape(-1) for p in module.parameters()]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "vit_s", "patch": 5}, "model.patch = 5: images of 32x32 .* divisor of 32"),
        ({"name": "resnet18_gn", "groups": 3}, "model.groups = 3"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(ConfigError, match=message):
        build(options)
