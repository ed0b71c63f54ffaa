"""Models by name. Their initial parameters depend on the experiment's seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Shape
from fedsmu_ray.models.imported import ImportedModel
from fedsmu_ray.models.networks import MLP, CharLSTM, LeNet, Linear, NextCharacter, ResNet18GN, ViTS
from fedsmu_ray.models.torchvision_models import TorchvisionModel
from fedsmu_ray.numerics.isolation import isolated

# Names, and forms of names, that `model.name` may have.
MODELS: dict[str, type[Model]] = {
    "linear": Linear,
    "mlp": MLP,
    "lenet": LeNet,
    "resnet18_gn": ResNet18GN,
    "vit_s": ViTS,
    "char_lstm": CharLSTM,
    "torchvision:<name>": TorchvisionModel,
    "import:<package.module>:<function>": ImportedModel,
}


def find(name: str) -> type[Model]:
    """The class of the model that `model.name` stands for.

    Raises ConfigError for an unknown name.
    """
    return plugins.lookup("model.name", name, MODELS)


def build(
    name: str,
    model: Model,
    shape: Shape,
    classes: int,
    seed: int,
    symbols: int | None = None,
    each_position: bool = False,
    output: str | int | None = None,
) -> nn.Module:
    """The module for samples of `shape`, initialized from `seed`.

    symbols: number of different tokens, for data of tokens. each_position: whether there is a
    target for each of them. output: which of several outputs it returns. What draws from a
    process-wide generator (of PyTorch, NumPy or Python) depends on `seed` alone; the generators of
    the caller are as they were afterwards. Raises ConfigError for data that the model cannot take.
    """
    tokens = symbols is not None
    if model.takes_tokens not in (None, tokens):
        kind, cure = (
            ("tokens (whole numbers)", "use model.name=char_lstm, or convert them to floats")
            if tokens
            else ("no tokens", "use one of the other models")
        )
        raise ConfigError(
            [f"model.name = {name}: the data has {kind}; {cure} (or a model of your own)"]
        )
    with isolated(seed):
        module = model.build(name, shape, classes, symbols)
    if each_position and isinstance(module, NextCharacter):
        module.each_position = True
    elif each_position and not model.is_users:
        raise ConfigError(
            [
                f"model.name = {name}: it has one output per sample, and the targets are one token "
                "per position; use model.name=char_lstm, or a model of your own"
            ]
        )
    if output is not None:
        module.register_forward_hook(partial(_pick, output))
    return module


def _pick(output: str | int, module: nn.Module, inputs: object, returned: Any) -> Any:
    """One output of a module that returns a tuple, a mapping or an object such as ModelOutput."""
    try:
        if isinstance(output, int) or isinstance(returned, Mapping):
            return returned[output]
        return getattr(returned, output)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        names = list(returned) if isinstance(returned, Mapping) else type(returned).__name__
        raise ConfigError([f"task.output = {output}: the model returned {names}"]) from error
