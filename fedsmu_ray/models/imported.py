"""The user's own model: `model.name: import:<package.module>:<function>`."""

# ruff: noqa: D102 - `build` and `load` are documented in base.py

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Shape


@dataclass(frozen=True)
class ImportedModel(Model):
    """What the user's function(shape, classes, **options) returns, a torch.nn.Module."""

    takes_tokens: ClassVar[bool | None] = None

    options: Annotated[
        Mapping[str, Any] | None, Field(description="keyword arguments of the model's function")
    ] = None

    def load(self, name: str) -> None:
        # No field, because it is not an option; pickling keeps it.
        object.__setattr__(self, "_function", plugins.load("model.name", name))

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        if "_function" not in vars(self):
            self.load(name)
        function, options = vars(self)["_function"], self.options or {}
        module = plugins.call("model.name", name, function, shape, classes, **options)
        if not isinstance(module, nn.Module):
            raise ConfigError(
                [
                    f"model.name = {name}: it returned a {type(module).__name__}; it must return a "
                    "torch.nn.Module"
                ]
            )
        return module.float().cpu().train()
