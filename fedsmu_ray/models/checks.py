"""Checks of a module on a few samples.

They find out whether it fits the data, and whether clients can be trained in a batch.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsmu_ray.errors import ConfigError


def check(module: nn.Module, inputs: Tensor, classes: int, name: str) -> None:
    """Check on a few samples that there is one output per class and no buffer changes in training.

    inputs: samples as the model gets them, [B, ...]; name: `model.name`, for the message. Raises
    ConfigError. Buffers are not part of the vector that clients and server exchange, so what
    training writes into them would be lost.
    """
    module = copy.deepcopy(module).train()
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    where = f"model.name = {name}"
    _check_outputs(_outputs(module, inputs, where), len(inputs), classes, where)
    changed = [
        key for key, buffer in module.named_buffers() if not torch.equal(buffer, before[key])
    ]
    if changed:
        raise ConfigError(
            [
                f"{where}: training changes its buffers ({', '.join(changed[:3])}), which are not "
                "parameters and would be lost between rounds; use layers without running "
                "statistics, such as GroupNorm or LayerNorm"
            ]
        )
    if not any(p.requires_grad for p in module.parameters()):
        raise ConfigError([f"{where}: it has no trainable parameters"])


def _outputs(module: nn.Module, inputs: Tensor, where: str) -> object:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            return module(inputs)
        except Exception as error:
            raise ConfigError(
                [
                    f"{where}: it cannot take inputs {list(inputs.shape)} ({inputs.dtype}): "
                    f"{type(error).__name__}: {error}; change the model or the data (torchvision's "
                    "models for large images: model.image_size)"
                ]
            ) from error


def _check_outputs(outputs: object, samples: int, classes: int, where: str) -> None:
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            [
                f"{where}: it returns a {type(outputs).__name__} in training; it must return one "
                "tensor of logits "
                "[batch, classes] (a torchvision model with auxiliary outputs: "
                "model.options={aux_logits: false})"
            ]
        )
    if outputs.shape != (samples, classes):
        raise ConfigError(
            [
                f"{where}: it returns {list(outputs.shape)} for {samples} samples; the data has "
                f"{classes} classes, so it must return logits [{samples}, {classes}]"
            ]
        )


def batches_clients(module: nn.Module, inputs: Tensor) -> bool:
    """Whether to train several clients in one batched computation (torch.func.vmap).

    inputs: a batch as the model gets it. It is done on a GPU whenever it is possible. On a CPU it
    pays for small matrices, where the overhead of a single client dominates; a convolution already
    keeps a core busy with one client, and its batched form (grouped convolution) is slower there.
    It is impossible for LSTMs, for control flow that depends on values, and for dropout, whose
    random numbers would depend on the grouping.
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
            # "There is a performance drop": it is still no slower than one client after the other.
            warnings.simplefilter("ignore")
            vmap(lambda p, x: functional_call(module, p, x))(params, torch.stack([inputs, inputs]))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True
