"""Process-wide generators and settings: what else runs in a process does not change results.

Code of the user's (a model, a data function, a method) can draw from the process-wide generators of
Python, NumPy and PyTorch, and its results depend on settings such as the default dtype. This module
is the one place that seeds those generators and that sets and restores those settings.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch

# Settings that change bits, with their values in a new process. Those that others fall back to come
# first: what is read after them is then the value of its own.
_backends: Any = torch.backends
# Older switches, which change some of the settings below; they cannot be read where the two differ.
_SWITCHES: tuple[tuple[Any, str, Any], ...] = (
    (_backends.cuda.matmul, "allow_tf32", False),
    (_backends.cudnn, "allow_tf32", True),
)
_SETTINGS: tuple[tuple[Any, str, Any], ...] = (
    (_backends, "fp32_precision", "none"),
    (_backends.cudnn, "fp32_precision", "none"),
    (_backends.mkldnn, "fp32_precision", "none"),
    (_backends.cuda.matmul, "fp32_precision", "none"),
    (_backends.cudnn.conv, "fp32_precision", "tf32"),
    (_backends.cudnn.rnn, "fp32_precision", "tf32"),
    (_backends.mkldnn.matmul, "fp32_precision", "none"),
    (_backends.mkldnn.conv, "fp32_precision", "none"),
    (_backends.mkldnn.rnn, "fp32_precision", "none"),
    (_backends.mkldnn, "enabled", True),
    (_backends.cudnn, "enabled", True),
    (_backends.cudnn, "benchmark", False),
    (_backends.cudnn, "deterministic", False),
    (torch.utils.deterministic, "fill_uninitialized_memory", True),
)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a block as in a new process whose generators are seeded with `seed`.

    Inside, the process-wide generators of Python, NumPy and PyTorch are seeded, and the settings of
    NumPy and PyTorch that change numbers are those of a new process; afterwards all are as they
    were before. It takes about a millisecond, and is not for several threads at once.
    """
    with ExitStack() as stack:
        _keep_generators(stack)
        _set_standard(stack)
        torch.manual_seed(seed)  # on every device, also those that are not yet in use
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Seed the process-wide generators of Python, NumPy and PyTorch; seed: any int64.

    It takes some 20 microseconds, so it is left out where no code can draw from them.
    """
    random.seed(seed % (1 << 64))
    # Another number than PyTorch's, whose generator is the same: the two would draw the same words.
    np.random.seed(zlib.crc32(b"%d" % seed))
    torch.default_generator.manual_seed(seed)
    if _uses_cuda():
        torch.cuda.manual_seed_all(seed)


def generator_states() -> tuple[object, ...]:
    """The states of the generators that `seed_generators` seeds on the CPU, to be compared."""
    name, words, *rest = np.random.get_state(legacy=True)
    return random.getstate(), name, np.asarray(words).tobytes(), *rest, _torch_state()


def gpu_generator_states() -> list[bytes]:
    """The states of PyTorch's generators of GPUs, to be compared; no GPU is waited for."""
    return [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _keep_generators(stack: ExitStack) -> None:
    """Have the generators restored when `stack` is closed."""
    stack.callback(_restore_cuda, torch.cuda.get_rng_state_all() if _uses_cuda() else None)
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    stack.callback(np.random.set_state, np.random.get_state())
    stack.callback(random.setstate, random.getstate())


def _restore_cuda(states: list[torch.Tensor] | None) -> None:
    if states is not None:
        torch.cuda.set_rng_state_all(states)
    elif torch.cuda.is_available():
        # It was not in use, and had the seed that PyTorch was last given.
        torch.cuda.manual_seed_all(torch.initial_seed())


def _set(values: Iterable[tuple[Any, str, Any]]) -> None:
    for owner, name, value in values:
        setattr(owner, name, value)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _set_standard(stack: ExitStack) -> None:
    """Set what changes numbers to the values in a new process, until `stack` is closed."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _SETTINGS]
    for owner, name, _ in _SWITCHES:
        with suppress(RuntimeError):
            before.insert(0, (owner, name, getattr(owner, name)))
    stack.callback(_set, before)
    _set([*_SWITCHES, *_SETTINGS])
    mode = torch.get_deterministic_debug_mode()
    stack.callback(torch.set_deterministic_debug_mode, mode)
    torch.set_deterministic_debug_mode(0)
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)
    if torch.get_default_device().type != "cpu":  # otherwise every call of PyTorch would be slower
        stack.enter_context(torch.device("cpu"))
    for device in ("cpu", "cuda"):
        stack.callback(torch.set_autocast_enabled, device, torch.is_autocast_enabled(device))
        torch.set_autocast_enabled(device, False)
    flushes = float(torch.tensor(1e-40) * 1) == 0
    stack.callback(torch.set_flush_denormal, flushes)
    torch.set_flush_denormal(False)
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
