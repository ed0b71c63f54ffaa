"""The networks of the FedSMU paper and two small ones, for samples of a given shape.

No buffer changes in training. Sizes in the docstrings are numbers of trainable parameters.
"""

# ruff: noqa: D102 - `build` is documented in base.py

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Positive, Shape
from fedsmu_ray.models.norms import GROUPS, NORM, Groups, Norm, check_groups

ImageSize = Annotated[
    Positive | None,
    Field(description="side in pixels that images are resized to; null leaves them as they are"),
]


@dataclass(frozen=True)
class Linear(Model):
    """Multinomial logistic regression: convex, for theory and for quick checks."""

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


@dataclass(frozen=True)
class MLP(Model):
    """Fully connected ReLU network.

    The default widths (200, 200) are McMahan et al.'s "2NN" (AISTATS 2017).
    """

    hidden: Annotated[tuple[Positive, ...], Field(description="widths of the hidden layers")] = (
        200,
        200,
    )

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        widths = (prod(shape), *self.hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in zip(widths, widths[1:]):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


@dataclass(frozen=True)
class LeNet(Model):
    """The CIFAR network of FedDyn and FedSMU.

    Two 5x5 convolutions of `filters` filters, then fully connected layers of 384, 192 and
    `classes`.

    For 3x32x32 images and 64 filters 797,962 (10 classes), 815,332 (100 classes); with 128 filters
    1,724,490 (10 classes). Other image sizes change only the first fully connected layer.
    """

    filters: Annotated[Positive, Field(description="filters of each of the two convolutions")] = 64

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        filters = self.filters
        channels, height, width = image_shape(shape, name, least=16)
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


@dataclass(frozen=True)
class ResNet18GN(Model):
    """ResNet18 with GroupNorm in place of every batch norm, as in FedSMU's code.

    The replacement is that of Hsieh et al., ICML 2020.

    11,181,642 (10 classes), 11,227,812 (100), 11,279,112 (200) with the 7x7 stem; 11,173,962 (10)
    with `stem=cifar`, a 3x3 stride-1 convolution without max-pool, which keeps the resolution of
    small images.
    """

    stem: Annotated[
        Literal["imagenet", "cifar"],
        Field(description="first layers: 7x7 of stride 2 and max-pool, or 3x3 of stride 1"),
    ] = "imagenet"
    norm: Annotated[Norm, Field(description=NORM)] = "group"
    groups: Groups = GROUPS

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        from torchvision.models import resnet18

        channels = image_shape(shape, name, least=8)[0]
        check_groups(self.norm, self.groups)
        groups = 1 if self.norm == "layer" else self.groups
        if 64 % groups:
            raise ConfigError(
                [
                    f"model.groups = {self.groups}: the 64 channels of resnet18_gn's first layers "
                    "cannot be divided "
                    f"into {self.groups} equal groups; use a power of two up to 64"
                ]
            )
        net = resnet18(num_classes=classes, norm_layer=partial(nn.GroupNorm, groups))
        if self.stem == "cifar":
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        return RGBInput(net, channels)


@dataclass(frozen=True)
class ViTS(Model):
    """ViT-S, trained from scratch.

    Width 384, 12 layers, 6 heads, MLP 1536, class token, learned positions, pre-norm.

    21,342,346 for patches of 4 on 32x32 and 10 classes; 21,669,514 for patches of 16 on 224x224.
    """

    patch: Annotated[Positive, Field(description="side of a patch in pixels")] = 4
    image_size: ImageSize = None

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        from torchvision.models import VisionTransformer

        channels, height, width = image_shape(shape, name, least=self.patch)
        net = VisionTransformer(
            self._side(height, width),
            self.patch,
            num_layers=12,
            num_heads=6,
            hidden_dim=384,
            mlp_dim=1536,
            num_classes=classes,
        )
        return RGBInput(net, channels, self.image_size)

    def _side(self, height: int, width: int) -> int:
        """Side of the images that the network sees.

        Raises ConfigError if they cannot be divided into patches.
        """
        side, patch = self.image_size or height, self.patch
        if not self.image_size and height != width:
            raise ConfigError(
                [
                    f"model.name = vit_s: the images are {height}x{width}, not square; set "
                    "model.image_size to resize them"
                ]
            )
        if side % patch:
            raise ConfigError(
                [
                    f"model.patch = {patch}: images of {side}x{side} pixels cannot be divided into "
                    f"patches of {patch}; use a divisor of {side}, or set model.image_size"
                ]
            )
        return side


@dataclass(frozen=True)
class CharLSTM(Model):
    """The next character after a window of text, predicted by `NextCharacter`.

    Source: McMahan et al., AISTATS 2017, in the size of LEAF.
    """

    takes_tokens: ClassVar[bool | None] = True

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        assert symbols is not None  # checked by `registry.build`
        return NextCharacter(symbols, classes)


class NextCharacter(nn.Module):
    """Embedding of 8, two LSTM layers of 100, linear on the last step: 133,520 for 80 symbols.

    Input int64 [B, length], output logits [B, classes], or [B, length, classes] with
    `each_position`.
    """

    each_position = False

    def __init__(self, symbols: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 8)
        self.lstm = nn.LSTM(8, 100, num_layers=2, batch_first=True)
        self.head = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(self.embedding(x))[0]
        logits: Tensor = self.head(y if self.each_position else y[:, -1])
        return logits


class RGBInput(nn.Module):
    """Adapts a network for RGB images of a fixed size to images of 1 or 3 channels and any size.

    Grayscale images are repeated to three channels, so that the network and its parameter count
    stay the published ones. image_size: side that images are resized to; None leaves them as they
    are.
    """

    def __init__(self, net: nn.Module, channels: int, image_size: int | None = None) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ConfigError(
                [
                    "model.name: the network takes images of 1 or 3 channels, but the data has "
                    f"{channels}"
                ]
            )
        self.net, self.image_size = net, image_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-3] == 1:
            x = x.expand(*x.shape[:-3], 3, *x.shape[-2:])
        if self.image_size and x.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        logits: Tensor = self.net(x)
        return logits


def image_shape(shape: Shape, name: str, least: int) -> Shape:
    """Channels, height and width of image data.

    Raises ConfigError for other data and for images smaller than `least` pixels.
    """
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            [
                f"model.name: {name} needs images [channels, height, width] of at least "
                f"{least}x{least} pixels, but the data has {list(shape)}; use model.name=mlp"
            ]
        )
    return shape
