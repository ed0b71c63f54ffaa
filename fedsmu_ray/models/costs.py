"""What a forward pass of a module computes, counted once to choose how it is computed fastest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fedsmu_ray.numerics.isolation import isolated

CHANNELS_LAST_FROM = 500  # positions of a batch at which a convolution weight is used


class Costs(NamedTuple):
    """Multiplications of a forward pass, per sample."""

    products: float  # in matrix products
    convolutions: float

    @staticmethod
    def of(module: nn.Module, inputs: Tensor) -> Costs:
        """Count them on a batch as the module gets it, [B, ...]."""
        with torch.no_grad(), isolated(0), _OperationCounter() as counter:
            module(inputs.clone())
        total = counter.counts.total()
        convolutions = counter.counts[torch.ops.aten.convolution]
        per_sample = 2 * len(inputs)  # a product and a sum are two operations
        return Costs((total - convolutions) / per_sample, convolutions / per_sample)


def activations(module: nn.Module, inputs: Tensor) -> float:
    """Bytes per sample that a forward pass keeps for its backward pass.

    inputs: a batch as the module gets it, [B, ...].
    """
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with isolated(0), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = module(inputs.clone())
    del outputs  # only now, so that no other tensor got the memory of one that is counted
    return sum(kept.values()) / len(inputs)


class _OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products and sums by operator, with the formulas of PyTorch's FlopCounterMode.

    That one imports PyTorch's compiler, which takes 1.3 s of CPU time.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler to leave this class out of it

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and note what it computes."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operator = getattr(func, "_overloadpacket", None)
        if operator in flop_registry:
            self.counts[operator] += flop_registry[operator](*args, **kwargs, out_val=result)
        return result


def positions(module: nn.Module, inputs: Tensor) -> float:
    """Positions of an image at which a weight of a convolution is used, in the mean.

    inputs: a few images as the module gets them, [B, C, H, W]; 0 for other inputs, and without
    convolutions. On a GPU they are not counted, but taken for infinitely many.
    """
    weights = sum(
        layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d)
    )
    if inputs.dim() != 4 or not weights:
        return 0.0
    return Costs.of(module, inputs).convolutions / weights if inputs.device.type == "cpu" else inf


def memory_format(positions: float, batch_size: int) -> torch.memory_format:
    """The memory order of images and convolution weights in which training is faster.

    Convolutions compute faster on channels-last images, but every step then converts their weights,
    in both directions. On a CPU that pays where a weight is used at many `positions` of the images
    of a batch: measured were 1.2 to 1.4 times the speed for LeNet (1,300 to 14,000 positions),
    about the same for resnet18_gn with 1,000, and 0.8 to 0.9 times with 30 to 170.
    """
    many = positions * batch_size >= CHANNELS_LAST_FROM
    return torch.channels_last if many else torch.contiguous_format
