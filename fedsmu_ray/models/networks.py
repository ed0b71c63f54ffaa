"""The networks of the FedSMU paper and two small ones, for samples of a given shape. No buffers that training changes.

Sizes in the docstrings are numbers of trainable parameters.
"""

from __future__ import annotations

from functools import partial
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from fedsmu_ray.errors import ConfigError


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Multinomial logistic regression: convex, for theory and for quick checks."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(shape: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> nn.Module:
    """Fully connected ReLU network. The default widths (200, 200) are McMahan et al.'s "2NN" (AISTATS 2017)."""
    widths = (prod(shape), *hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in zip(widths, widths[1:]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def lenet(shape: tuple[int, ...], classes: int, filters: int) -> nn.Module:
    """The FedDyn / FedSMU CIFAR network: two 5x5 convolutions of `filters` filters, then 384, 192, classes.

    For 3x32x32 images and 64 filters 797,962 (10 classes), 815,332 (100 classes); with 128 filters 1,724,490 (10
    classes). Other image sizes change only the first fully connected layer.
    """
    channels, height, width = image_shape(shape, "lenet", least=16)
    h, w = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, filters, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(filters, filters, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filters * h * w, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, classes),
    )


def resnet18_gn(shape: tuple[int, ...], classes: int, stem: str, groups: int) -> nn.Module:
    """ResNet18 with every batch norm replaced by GroupNorm (Hsieh et al., ICML 2020), as FedSMU's code has it.

    11,181,642 (10 classes), 11,227,812 (100), 11,279,112 (200) with the 7x7 stem; 11,173,962 (10) with `stem=cifar`,
    a 3x3 stride-1 convolution without max-pool, which keeps the resolution of small images.
    """
    from torchvision.models import resnet18

    channels = image_shape(shape, "resnet18_gn", least=8)[0]
    if 64 % groups:
        raise ConfigError(
            [
                f"model.groups = {groups}: the 64 channels of resnet18_gn's first layers cannot be cut into "
                f"{groups} equal groups; use a power of two up to 64"
            ]
        )
    net = resnet18(num_classes=classes, norm_layer=partial(nn.GroupNorm, groups))
    if stem == "cifar":
        net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return Adapted(net, channels)


def vit_s(shape: tuple[int, ...], classes: int, patch: int, image_size: int | None) -> nn.Module:
    """ViT-S (width 384, 12 layers, 6 heads, MLP 1536, class token, learned positions, pre-norm), from scratch.

    21,342,346 for patches of 4 on 32x32 and 10 classes; 21,669,514 for patches of 16 on 224x224.
    """
    from torchvision.models import VisionTransformer

    channels, height, width = image_shape(shape, "vit_s", least=patch)
    side = image_size or height
    if not image_size and height != width:
        raise ConfigError(
            [
                f"model.name = vit_s: the images are {height}x{width}, not square; set model.image_size to resize "
                "them"
            ]
        )
    if side % patch:
        raise ConfigError(
            [
                f"model.patch = {patch}: images of {side}x{side} pixels cannot be cut into patches of {patch}; use "
                f"a divisor of {side}, or set model.image_size"
            ]
        )
    net = VisionTransformer(
        side, patch, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=classes
    )
    return Adapted(net, channels, image_size)


class CharLSTM(nn.Module):
    """Next character after a window: embedding of 8, two LSTM layers of 100, linear on the last step (133,520 for
    80 symbols). Input int64 [B, length]."""

    def __init__(self, symbols: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 8)
        self.lstm = nn.LSTM(8, 100, num_layers=2, batch_first=True)
        self.head = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0][:, -1])


class Adapted(nn.Module):
    """A network for RGB images of a size of its own, on images of `channels` channels and any size.

    Grey images are repeated to three channels, so that the network and its parameter count stay the published ones.
    """

    def __init__(self, net: nn.Module, channels: int, image_size: int | None = None) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ConfigError(
                [
                    f"model.name: the network takes images of 1 or 3 channels, but the data has {channels}"
                ]
            )
        self.net, self.image_size = net, image_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-3] == 1:
            x = x.expand(*x.shape[:-3], 3, *x.shape[-2:])
        if self.image_size and x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(
                x, (self.image_size, self.image_size), mode="bilinear", align_corners=False
            )
        return self.net(x)


def image_shape(shape: tuple[int, ...], name: str, least: int) -> tuple[int, ...]:
    """channels, height, width of image data; raises ConfigError for anything else or smaller."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            [
                f"model.name: {name} needs images [channels, height, width] of at least {least}x{least} pixels, but "
                f"the data has {list(shape)}; use model.name=mlp"
            ]
        )
    return shape
