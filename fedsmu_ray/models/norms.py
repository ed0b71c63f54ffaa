"""What takes the place of batch norm in a model (`model.norm`).

The running statistics of batch norm are buffers, not parameters: averaging the clients' models
would leave them out, and statistics of a client's batches are not those of the others (Hsieh et
al., "The Non-IID Data Quagmire of Decentralized Machine Learning", ICML 2020, who use GroupNorm).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Positive

GROUPS = 2
Norm = Literal["group", "layer"]
Groups = Annotated[
    Positive, Field(description="groups of every GroupNorm in place of batch norm (norm: group)")
]
NORM = (
    "what takes the place of batch norm: GroupNorm of `groups` groups, or of one group, which is "
    "layer normalization over channels and positions (layer)"
)


def check_groups(norm: Norm | None, groups: int) -> None:
    """Raise ConfigError for groups that the norm does not have."""
    if norm != "group" and groups != GROUPS:
        shown = norm or "null"
        raise ConfigError(
            [
                f"model.groups = {groups}: model.norm = {shown} does not read it (only group); "
                "remove it"
            ]
        )


def without_batch_norm(
    net: nn.Module, norm: Norm, groups: int, name: str, required: bool = True
) -> nn.Module:
    """The module with another norm in place of every batch norm.

    Initial weights and biases are those of the batch norm. name: `model.name`. Raises ConfigError
    for channels that do not form the groups, and, if it is required, for a module without any.
    """
    check_groups(norm, groups)
    new: dict[nn.Module, nn.Module] = {}
    for key, child in net.named_modules():  # each once, however often it is used
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            new[child] = _norm(child, 1 if norm == "layer" else groups, name, key)
    if required and not new:
        raise ConfigError(
            [f"model.norm = {norm}: model.name = {name} has no batch norm; remove it"]
        )
    for parent in list(net.modules()):
        for key, other in parent._modules.items():
            if other in new:
                setattr(parent, key, new[other])
    return new.get(net, net)


def _norm(batch_norm: nn.Module, groups: int, name: str, key: str) -> nn.GroupNorm:
    assert isinstance(batch_norm, nn.modules.batchnorm._BatchNorm)
    channels = batch_norm.num_features
    if channels % groups:
        raise ConfigError(
            [
                f"model.name = {name}: its layer {key} has {channels} channels, which do not form "
                f"{groups} groups, so its batch norm cannot become a group norm; set model.groups "
                "to a divisor, or model.norm=layer"
            ]
        )
    if channels == groups > 1 and isinstance(batch_norm, nn.BatchNorm1d):
        raise ConfigError(
            [
                f"model.name = {name}: its layer {key} would have {groups} groups of one channel, "
                "whose values would all become 0; lower model.groups, or set model.norm=layer"
            ]
        )
    norm = nn.GroupNorm(groups, channels, batch_norm.eps, batch_norm.affine)
    if batch_norm.affine:
        with torch.no_grad():
            for mine, its in zip(norm.parameters(), batch_norm.parameters()):
                mine.copy_(its)
                mine.requires_grad_(its.requires_grad)
    return norm
