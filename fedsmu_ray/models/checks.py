"""Checks of a module on a few samples: whether it can be trained, and fits the data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedsmu_ray import plugins
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.modes import evaluating
from fedsmu_ray.numerics.isolation import isolated
from fedsmu_ray.numerics.parameters import Layout

_FIT = "change the model or the data (torchvision's models for large images: model.image_size)"
# Wrappers that torch.func.functional_call, with which modules are tried and vectorized, does not
# take.
_WRAPPERS = {
    torch.jit.ScriptModule: "return the module without torch.jit",
    nn.DataParallel: "return the network inside it; compute.actors trains clients in parallel",
    nn.parallel.DistributedDataParallel: "return the network inside it",
}


def check(module: nn.Module, inputs: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Check that a new module can be trained, and what it returns for a few samples.

    inputs: samples as the model gets them, [B, ...]; shape: of the outputs for one; name:
    `model.name`, for the message. Raises ConfigError.
    """
    where = f"model.name = {name}"
    _check_parameters(module, where)
    before = buffers(module)
    check_outputs(module, inputs, shape, where)
    check_buffers(module, before, where)


def _check_parameters(module: nn.Module, where: str) -> None:
    for wrapper, cure in _WRAPPERS.items():
        if isinstance(module, wrapper):
            raise ConfigError([f"{where}: it is a {type(module).__name__}; {cure}"])
    for key, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.is_complex():
            raise ConfigError(
                [
                    f"{where}: its parameter {key} is {parameter.dtype}, but clients and server "
                    "exchange real numbers; make it a real parameter [..., 2], and use "
                    "torch.view_as_complex in forward"
                ]
            )
        if parameter.numel() and not bool(parameter.isfinite().all()):
            raise ConfigError(
                [f"{where}: its initial parameter {key} holds NaN or Inf; initialize it"]
            )
    if not Layout.of(module).dim:
        raise ConfigError([f"{where}: it has no trainable parameters"])


def check_separate(one: nn.Module, other: nn.Module, name: str) -> None:
    """Raise ConfigError if two new modules share a trainable parameter."""
    places = {p.data_ptr() for p in one.parameters() if p.requires_grad and p.numel()}
    for key, parameter in other.named_parameters():
        if parameter.requires_grad and parameter.numel() and parameter.data_ptr() in places:
            raise ConfigError(
                [
                    f"model.name = {name}: its parameter {key} is the same tensor whenever the "
                    "model is built; create all layers in the function, so that every call returns "
                    "new ones, drawn from `seed`"
                ]
            )


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's buffers by name, for `check_buffers`."""
    return {key: buffer.clone() for key, buffer in module.named_buffers()}


def check_buffers(module: nn.Module, before: Mapping[str, Tensor], where: str) -> None:
    """Raise ConfigError if buffers are no longer what they were before the module was used.

    They are not part of the vector that clients and server exchange, so what training writes into
    them would be lost. where: `model.name = ...`, for the message.
    """
    after = dict(module.named_buffers())
    changed = [key for key in after if key not in before or not _equal(after[key], before[key])]
    if changed:
        raise ConfigError(
            [
                f"{where}: training changes its buffers ({', '.join(changed[:3])}), which are not "
                "parameters and would be lost between rounds; use layers without running "
                "statistics, such as GroupNorm or LayerNorm (model.norm=group puts them in place "
                "of batch norm), or keep these in evaluation mode"
            ]
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and bool(((one == other) | ((one != one) & (other != other))).all())  # NaN, too


def check_outputs(
    module: nn.Module, inputs: Tensor, shape: tuple[int, ...], where: str, cure: str = _FIT
) -> None:
    """Check the outputs, [B, *shape], in training and in evaluation mode.

    inputs: [B, ...]; where, cure: first and last words of the message. Raises ConfigError.
    """
    taking = f"{where}: it cannot take inputs {list(inputs.shape)} ({inputs.dtype}); it"
    with isolated(0), torch.no_grad():
        with plugins.reported(taking, cure):
            trained = module(inputs.clone())
        _check_outputs(trained, len(inputs), shape, f"{where}: in training, it", cure)
        with plugins.reported(f"{where}: in evaluation, it", cure), evaluating(module):
            evaluated = module(inputs.clone())
        _check_outputs(evaluated, len(inputs), shape, f"{where}: in evaluation, it", cure)


def _check_outputs(
    outputs: object, samples: int, shape: tuple[int, ...], what: str, cure: str
) -> None:
    wanted = [samples, *shape]
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            [
                f"{what} returns a {type(outputs).__name__}; it must return one tensor, or "
                "task.output must say which of several it is, by name or position (a torchvision "
                "model with auxiliary outputs: task.output=logits, or "
                "model.options={aux_logits: false})"
            ]
        )
    if list(outputs.shape) != wanted:
        raise ConfigError(
            [
                f"{what} returns {list(outputs.shape)} for {samples} samples; for the targets of "
                f"the data it must return {wanted}; {cure}"
            ]
        )
    if not outputs.is_floating_point():
        raise ConfigError([f"{what} returns {outputs.dtype}; return real numbers"])
