"""The user's own model: `model.name: import:<package.module>:<function>`."""

# ruff: noqa: D102 - `build` and `load` are documented in base.py

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.parameter import is_lazy

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Shape
from fedsmu_ray.models.modes import evaluating, start_training
from fedsmu_ray.models.norms import GROUPS, NORM, Groups, Norm, check_groups, without_batch_norm


@dataclass(frozen=True)
class ImportedModel(Model):
    """What the user's function(shape, classes, **options) returns, a torch.nn.Module."""

    takes_tokens: ClassVar[bool | None] = None
    is_users: ClassVar[bool] = True

    options: Annotated[
        Mapping[str, Any] | None, Field(description="keyword arguments of the model's function")
    ] = None
    norm: Annotated[
        Norm | None,
        Field(description=f"{NORM}; null: batch norm stays, and must not change its statistics"),
    ] = None
    groups: Groups = GROUPS

    def load(self, name: str) -> None:
        self._function(name)

    def _function(self, name: str) -> Callable[..., Any]:
        return plugins.kept(self, lambda: plugins.load("model.name", name))

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        function, options = self._function(name), self.options or {}
        module = plugins.call("model.name", name, function, shape, classes, **options)
        if not isinstance(module, nn.Module):
            is_class, kind = isinstance(module, type), type(module).__name__
            found = f"the class {module.__name__}, not an instance" if is_class else f"a {kind}"
            raise ConfigError(
                [f"model.name = {name}: it returned {found}; it must return a torch.nn.Module"]
            )
        with plugins.reported(
            f"model.name = {name}: preparing the module",
            "return a module that is on the CPU and takes the data",
        ):
            module = module.float().cpu()
            _initialize_lazy_layers(module, shape, symbols)
        return start_training(self._normed(module, name))

    def _normed(self, module: nn.Module, name: str) -> nn.Module:
        """The module with `norm` in place of batch norm; raises ConfigError."""
        if self.norm is None:
            check_groups(self.norm, self.groups)
            return module
        return without_batch_norm(module, self.norm, self.groups, name)


def _initialize_lazy_layers(module: nn.Module, shape: Shape, symbols: int | None) -> None:
    """Run the module on two samples of zeros, from which its lazy layers learn their shapes."""
    if not any(map(is_lazy, chain(module.parameters(), module.buffers()))):
        return
    dtype = torch.float32 if symbols is None else torch.int64
    with torch.no_grad(), evaluating(module):
        module(torch.zeros(2, *shape, dtype=dtype))
    left = [key for key, parameter in module.named_parameters() if is_lazy(parameter)]
    if left:
        raise ValueError(f"forward does not use the lazy layer of {left[0]}")
