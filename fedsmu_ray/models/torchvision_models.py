"""Classification models of torchvision, from scratch: `model.name: torchvision:<name>`."""

# ruff: noqa: D102 - `build` is documented in base.py

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Shape
from fedsmu_ray.models.networks import ImageSize, RGBInput, image_shape
from fedsmu_ray.models.norms import GROUPS, NORM, Groups, Norm, without_batch_norm


@dataclass(frozen=True)
class TorchvisionModel(Model):
    """Any classification model of torchvision, with GroupNorm in place of batch norm."""

    norm: Annotated[Norm, Field(description=NORM)] = "group"
    groups: Groups = GROUPS
    image_size: ImageSize = None
    options: Annotated[
        Mapping[str, Any] | None, Field(description="keyword arguments of the model's function")
    ] = None

    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        from torchvision import models

        function = name.removeprefix("torchvision:")
        known = models.list_models(module=models)
        if function not in known:
            raise ConfigError(
                [
                    f"model.name = {name}: torchvision has no classification model {function}; it "
                    f"has {', '.join(known)}"
                ]
            )
        channels = image_shape(shape, name, least=1)[0]
        options = {"num_classes": classes, "weights": None, **(self.options or {})}
        _check_options(options, classes)
        with warnings.catch_warnings():
            # Two old models announce that their initialization will change.
            warnings.simplefilter("ignore", FutureWarning)
            net = plugins.call("model.name", name, models.get_model_builder(function), **options)
        asked = self.norm != "group"  # by default a model may have none
        net = without_batch_norm(net, self.norm, self.groups, name, asked)
        return RGBInput(net, channels, self.image_size)


def _check_options(options: Mapping[str, Any], classes: int) -> None:
    """Raise ConfigError for options that are not the user's to set."""
    for key in ("weights", "pretrained"):
        if options.get(key):
            raise ConfigError(
                [
                    f"model.options.{key} = {options[key]}: torchvision's models start untrained "
                    "here; remove it, or load weights in a function of your own (import:)"
                ]
            )
    if options["num_classes"] != classes:
        raise ConfigError(
            [
                f"model.options.num_classes = {options['num_classes']}: the data has {classes} "
                "classes; remove it"
            ]
        )
