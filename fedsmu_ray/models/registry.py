"""Models by name, sized after the data. Initialised from the experiment's seed only."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsmu_ray import plugins
from fedsmu_ray.config.schema import ModelConfig
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models import networks


def build(
    model: ModelConfig, shape: tuple[int, ...], classes: int, seed: int, symbols: int | None = None
) -> nn.Module:
    """The model for samples of `shape`, in PyTorch's or its own default initialisation drawn from `seed`.

    symbols: number of different tokens, for data of tokens. PyTorch initialises from its global generator; it is
    forked, seeded and restored here, on the CPU, so the result depends on `seed` alone. Raises ConfigError for data
    the model cannot take.
    """
    tokens = symbols is not None
    if tokens != (model.name == "char_lstm") and not model.name.startswith("import:"):
        kind, cure = (
            ("tokens", "use model.name=char_lstm")
            if tokens
            else ("no tokens", "use one of the other models")
        )
        raise ConfigError(
            [f"model.name = {model.name}: the data has {kind}; {cure} (or a model of your own)"]
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match model.name:
            case "linear":
                return networks.linear(shape, classes)
            case "mlp":
                return networks.mlp(shape, classes, tuple(model.hidden))
            case "lenet":
                return networks.lenet(shape, classes, model.filters)
            case "resnet18_gn":
                return networks.resnet18_gn(shape, classes, model.stem, model.groups)
            case "vit_s":
                return networks.vit_s(shape, classes, model.patch, model.image_size)
            case "char_lstm":
                return networks.CharLSTM(symbols, classes)
            case name if name.startswith("torchvision:"):
                return _torchvision(model, shape, classes)
            case name:
                return _imported(model, name, shape, classes)


def _imported(model: ModelConfig, name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The user's own: function(shape, classes, **model.options) -> nn.Module."""
    module = plugins.call(
        "model.name",
        name,
        plugins.load("model.name", name),
        shape,
        classes,
        **(model.options or {}),
    )
    if not isinstance(module, nn.Module):
        raise ConfigError(
            [
                f"model.name = {name}: it returned a {type(module).__name__}; it must return a torch.nn.Module"
            ]
        )
    return module.float().cpu().train()


def _torchvision(model: ModelConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    """A torchvision classification model from scratch, with GroupNorm in place of batch norm."""
    from torchvision import models

    name = model.name.removeprefix("torchvision:")
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            [
                f"model.name = {model.name}: torchvision has no classification model {name}; it has "
                f"{', '.join(known)}"
            ]
        )
    channels = networks.image_shape(shape, model.name, least=1)[0]
    options = {"num_classes": classes, **(model.options or {})}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # of two old models, on how they will be initialised one day
        net = plugins.call(
            "model.name", model.name, models.get_model, name, weights=None, **options
        )
    _group_norm(net, model.groups, model.name)
    return networks.Adapted(net, channels, model.image_size)


def _group_norm(net: nn.Module, groups: int, name: str) -> None:
    """Replace every batch norm, in place. Batch norm's running statistics are no parameters: averaging the models
    of clients would leave them behind."""
    for parent in list(net.modules()):
        for key, child in parent.named_children():
            if not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            if child.num_features % groups:
                raise ConfigError(
                    [
                        f"model.name = {name}: its layer {key} has {child.num_features} channels, which do not form "
                        f"{groups} groups, so its batch norm cannot become a group norm; set model.groups to "
                        "a divisor"
                    ]
                )
            setattr(parent, key, nn.GroupNorm(groups, child.num_features, child.eps))


def check(module: nn.Module, inputs: Tensor, classes: int, name: str) -> None:
    """Try the model on a few samples: one output per class, and no buffer that training would change.

    Raises ConfigError. Buffers are not part of the vector that clients and server exchange, so what training writes
    into them would be lost.
    """
    module = copy.deepcopy(module).train()
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    where = f"model.name = {name}"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            outputs = module(inputs)
        except Exception as error:
            raise ConfigError(
                [
                    f"{where}: it cannot take inputs {list(inputs.shape)} ({inputs.dtype}): {type(error).__name__}: "
                    f"{error}; change the model or the data (torchvision's models for large images: "
                    "model.image_size)"
                ]
            ) from error
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            [
                f"{where}: it returns a {type(outputs).__name__} in training; it must return one tensor of logits "
                "[batch, classes] (a torchvision model with auxiliary outputs: model.options={aux_logits: false})"
            ]
        )
    if outputs.shape != (len(inputs), classes):
        raise ConfigError(
            [
                f"{where}: it returns {list(outputs.shape)} for {len(inputs)} samples; the data has {classes} "
                f"classes, so it must return logits [{len(inputs)}, {classes}]"
            ]
        )
    changed = [
        key for key, buffer in module.named_buffers() if not torch.equal(buffer, before[key])
    ]
    if changed:
        raise ConfigError(
            [
                f"{where}: training changes its buffers ({', '.join(changed[:3])}), which are not parameters and "
                "would be lost between rounds; use layers without running statistics, such as GroupNorm or "
                "LayerNorm"
            ]
        )
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigError([f"{where}: it has no trainable parameters"])


def batches_clients(module: nn.Module, inputs: Tensor) -> bool:
    """Whether several clients are trained in one batched computation (torch.func.vmap), on batches like `inputs`.

    On a GPU always if it can be done; on a CPU it pays for stacks of small matrices, where a client alone is all
    overhead, but a convolution already fills the core with one client, and its batched form (grouped convolution) is
    slower there. It cannot be done for LSTMs, for control flow that depends on values, nor for dropout, whose draws
    would depend on the grouping.
    """
    if any(isinstance(m, nn.RNNBase) for m in module.modules()):
        return False
    if inputs.device.type == "cpu" and any(
        isinstance(m, nn.modules.conv._ConvNd) for m in module.modules()
    ):
        return False
    params = {name: p.detach().expand(2, *p.shape) for name, p in module.named_parameters()}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter(
                "ignore"
            )  # "there is a performance drop": still no slower than one by one
            vmap(lambda p, x: functional_call(module, p, x))(params, torch.stack([inputs, inputs]))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True
