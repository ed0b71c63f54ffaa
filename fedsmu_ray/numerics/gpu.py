"""The GPU of a process: its share of the memory, precision, repeatable results, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedsmu_ray import environment
from fedsmu_ray.errors import ExecutionError

# Memory that a process takes beside its tensors: the CUDA context, cuBLAS and cuDNN. An estimate.
CONTEXT_BYTES = 768 << 20


def prepare(share: float, precision: str) -> torch.device:
    """Prepare this process for training on the GPU that it sees; returns the device.

    share: `compute.gpus_per_actor`; Ray only accounts for it. precision: `compute.precision`.
    Raises ExecutionError if there is no GPU, or not one that can be used.
    """
    _check_available(share)
    _check_slice(share)
    environment.set_deterministic_cublas()
    torch.cuda.set_per_process_memory_fraction(_memory_fraction(share) if share < 1 else 1.0)
    set_precision(precision)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # A debugging aid that writes every new tensor twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda")


def memory_to_keep(share: float) -> int:
    """Bytes of this process's share of a GPU that may be filled with what is only kept: a fifth."""
    if not share:
        return 0
    return int(min(1.0, share) * torch.cuda.get_device_properties(0).total_memory) // 5


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host does not wait for a GPU.

    The copy on a GPU is made from pinned memory, so that x may change at once.
    """
    return x if device.type == "cpu" else x.pin_memory().to(device, non_blocking=True)


def download(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in the memory of the host, which waits once for all that are on a GPU.

    Copies of these are in pinned memory: whoever keeps them for long has to copy them.
    """
    if not any(x.is_cuda for x in tensors):
        return list(tensors)
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
    for copy, x in zip(copies, tensors):
        copy.copy_(x, non_blocking=True)
    torch.cuda.synchronize()
    return copies


def is_broken(error: BaseException) -> bool:
    """Whether an error says that this process can no longer use its GPU.

    CUDA reports an error of a kernel (an index out of range, say) in this call and in all later
    ones. Too little memory is not such an error.
    """
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and "CUDA error:" in str(error)
    )


def _check_available(share: float) -> None:
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None and torch.version.hip is None:
        why, cure = f"PyTorch {torch.__version__} is built for the CPU only", "install a CUDA build"
    else:
        visible = ",".join(environment.visible_gpus()) or "not set"
        why = f"PyTorch finds no GPU (CUDA_VISIBLE_DEVICES is {visible})"
        cure = "see whether nvidia-smi lists one, with a driver for this PyTorch"
    raise ExecutionError(
        f"compute.gpus_per_actor = {share:g}: {why}; {cure}, or set compute.gpus_per_actor=0"
    )


def _check_slice(share: float) -> None:
    """Raise ExecutionError for a part of a card (MIG) that Ray takes for a whole one.

    Ray counts cards, and CUDA gives every process the first slice of its card.
    """
    name = torch.cuda.get_device_name()
    named = any(each.startswith("MIG-") for each in environment.visible_gpus())
    if " MIG " in f"{name} " and not named:
        raise ExecutionError(
            f"compute.gpus_per_actor = {share:g}: {name} is a slice of a card, and all actors of "
            "the card would share the first slice; start Ray with the slices by name "
            "(CUDA_VISIBLE_DEVICES=MIG-...,MIG-... ray start --num-gpus=<slices>; nvidia-smi -L "
            "lists them), or turn MIG off"
        )


def _memory_fraction(share: float) -> float:
    """What the tensors of this process may fill of the GPU's memory."""
    total = torch.cuda.get_device_properties(0).total_memory
    fraction = share - CONTEXT_BYTES / total
    if fraction <= 0:
        raise ExecutionError(
            f"compute.gpus_per_actor = {share:g}: that is {share * total / 2**20:.0f} MB of the "
            f"GPU's memory, and a process takes about {CONTEXT_BYTES >> 20} MB before it has a "
            f"tensor; raise it, at least to {2 * CONTEXT_BYTES / total:.2g}"
        )
    return fraction


def set_precision(precision: str) -> None:
    """Set the precision of float32 products on GPUs; PyTorch's default for convolutions is tf32."""
    tf32 = precision == "tf32"
    # The older switches first: they change the newer ones, and PyTorch raises for code that reads
    # one of them where the two differ.
    backends: Any = torch.backends
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = tf32
    # Each kind of its own: PyTorch before 2.12 does not hand a common setting down to all.
    for kind in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        kind.fp32_precision = "tf32" if tf32 else "ieee"
