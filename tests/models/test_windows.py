"""Convolutions that compute with the part of their kernel that meets the image."""

import pytest
import torch
from torch import nn

from fedsmu_ray.models.windows import Windows
from fedsmu_ray.numerics.parameters import gradient


def conv(kernel, **options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, kernel, **options), nn.Flatten(), nn.Linear(4, 2))


CASES = {  # layer, size of the images, size of the window
    "middle": (lambda: conv(3, padding=1), (1, 1), (1, 1)),
    "corner": (lambda: conv(3, padding=1, stride=2), (2, 2), (2, 2)),
    "edge": (lambda: conv((3, 5), padding=(1, 0), stride=2), (1, 6), (1, 5)),
    "no bias": (lambda: conv(5, padding=2, bias=False), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_whole_kernel(name):
    build, size, window = CASES[name]
    module, images = build(), torch.randn(6, 3, *size)
    own = list(module.parameters())
    wanted = module(images)
    h = gradient(wanted.square().sum(), own)
    windows = Windows(module, images[:2], own)
    assert windows.params[0].shape[2:] == window
    windows.use(True)
    found = module(images)
    torch.testing.assert_close(found, wanted)
    for cut, part in zip(windows.cut(h), gradient(found.square().sum(), windows.params)):
        torch.testing.assert_close(part, cut)
    windows.cut(h)[0].zero_()
    assert not h[0].any() and h[1].any()  # no other part of the weight has a gradient
    windows.use(False)
    assert torch.equal(module(images), wanted)


def twice():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    "module, size",
    [
        (lambda: conv(3, padding=1), 2),  # every part meets the image at one position or another
        (lambda: conv(1), 1),
        (lambda: conv(3), 3),
        (lambda: conv(3, padding=1, padding_mode="circular"), 1),
        (lambda: conv(3, padding=2, dilation=2), 1),
        (lambda: conv(3, padding="same"), 1),
        (lambda: conv(3, padding=1).requires_grad_(False), 1),
        (twice, 1),
    ],
)
def test_other_convolutions_stay_as_they_are(module, size):
    module = nn.Sequential(*list(module())[:1]) if size == 2 else module()
    own = [p for p in module.parameters() if p.requires_grad]
    assert not Windows(module, torch.randn(2, 3, size, size), own).layers
    assert all(type(layer) is nn.Conv2d for layer in module if hasattr(layer, "kernel_size"))
