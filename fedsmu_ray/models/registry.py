"""Models by name. Their initial parameters depend on the experiment's seed alone."""

from __future__ import annotations

from torch import nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Model, Shape
from fedsmu_ray.models.imported import ImportedModel
from fedsmu_ray.models.networks import MLP, CharLSTM, LeNet, Linear, ResNet18GN, ViTS
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
) -> nn.Module:
    """The module for samples of `shape`, initialized from `seed`.

    symbols: number of different tokens, for data of tokens. What draws from a process-wide
    generator (of PyTorch, NumPy or Python) depends on `seed` alone; the generators of the caller
    are as they were afterwards. Raises ConfigError for data that the model cannot take.
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
        return model.build(name, shape, classes, symbols)
