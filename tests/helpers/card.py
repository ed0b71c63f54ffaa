"""A make-believe CUDA card, for tests on machines without one.

Inside `card()`, tensors that are moved to "cuda" become `CardTensor`s: they say that they are on
cuda:0, hold their values in host memory and are computed on the CPU, so that results have the bits
of the CPU. The card raises what CUDA would raise (tensors of two devices in one operation, NumPy
arrays of the card's memory, what deterministic mode refuses, waits during a capture) and counts
launches of operations and of graphs, copies, and waits: whatever makes the host wait until the card
has computed.

What it is not: it knows no kernels (a convolution is one launch, whatever it takes on a card), no
speed and no memory, and no cuDNN, so an LSTM runs as its single steps. Python attributes
tell where a tensor is; code of PyTorch in C++ still takes it for a tensor of the CPU.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._C import _functorch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fedsmu_ray.numerics.isolation import isolated
from tests.helpers.card_graphs import Graph, Streams
from tests.helpers.card_operations import (
    COPIES,
    INDEXING,
    NO_LAUNCH,
    PRECISION_OF,
    PRODUCTS,
    REFUSED,
    REFUSED_OF_FLOATS,
    TAKES_HOST_SCALARS,
    WAITS,
)

aten = torch.ops.aten
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PACKAGE = str(Path(__file__).parents[2] / "fedsmu_ray")
MEMORY = 80 << 30  # bytes that the card says it has
WORKSPACES = (":4096:8", ":16:8")  # of cuBLAS, with which its products are repeatable


class DeviceMismatch(RuntimeError):
    """Tensors of two devices in one operation."""


class CardTensor(Tensor):
    """A tensor on the card; `held` has its values, in host memory."""

    held: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # the modes below do all

    @staticmethod
    def __new__(cls, held: Tensor) -> CardTensor:
        assert type(held) is Tensor, f"not a plain tensor of the host: {type(held)}"
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} on a tensor of the make-believe card, which is closed")

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def __repr__(self) -> str:
        return f"CardTensor({self.held})"


@dataclass
class Card:
    """What was done with the card: numbers of launches, copies and waits."""

    launches: Counter[str] = field(default_factory=Counter)  # by operation
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (what for, place)
    precisions: set[str] = field(default_factory=set)  # of products of float32
    to_card: int = 0  # bytes
    to_host: int = 0
    name: str = "Make-believe"
    memory_fraction: float | None = None  # that the process was limited to
    generator: Tensor = field(default_factory=lambda: _generator(0))  # the state of its own
    pinned: list[Tensor] = field(default_factory=list)  # kept, so that no other gets their memory
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        self.streams = Streams(self)

    def clear(self) -> None:
        """Count from zero."""
        self.launches.clear()
        self.waits.clear()
        self.to_card = self.to_host = 0

    def wait(self, what: str) -> None:
        """Count a wait of the host for the card, which a capture does not allow."""
        if self.streams.graph:
            raise torch.AcceleratorError(
                f"CUDA error: operation not permitted when stream is capturing ({what}, {_place()})"
            )
        self.waits[what, _place()] += 1

    def is_pinned(self, x: Tensor) -> bool:
        memory = x.untyped_storage().data_ptr()
        return any(memory == p.untyped_storage().data_ptr() for p in self.pinned)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw from the card's generator instead of the host's."""
        host = torch.get_rng_state()
        torch.set_rng_state(self.generator)
        try:
            yield
        finally:
            self.generator = torch.get_rng_state()
            torch.set_rng_state(host)


def _generator(seed: int) -> Tensor:
    return torch.Generator().manual_seed(seed).get_state()


def _launches(packet, args) -> int:
    """Launches of an operation: one, but those on lists take one per tensor if these differ."""
    if not str(packet).startswith("aten._foreach"):
        return 1
    first, *others = [a for a in args if isinstance(a, list) and isinstance(a[0], Tensor)]
    pairs = [pair for other in others for pair in zip(first, other)]
    alike = all(a.shape == b.shape and a.stride() == b.stride() for a, b in pairs)
    return 1 if alike else len(first)


def _place() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(2)
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE)[1:]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def is_on_card(x: object) -> bool:
    """Whether x is a tensor on the card, also below the wrappers of torch.func."""
    while isinstance(x, Tensor) and _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return isinstance(x, CardTensor)


def _is_cuda(device: object) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Operations(TorchDispatchMode):
    """Computes what reaches the dispatcher."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        held = {id(t.held): t for t in tensors if isinstance(t, CardTensor)}
        to_card = _is_cuda(kwargs.get("device"))
        if to_card:
            kwargs["device"] = CPU
        elif not held:
            return self._on_host(func, args, kwargs)
        self._check(func, args, tensors, held)
        self._count(func, args, kwargs)
        streams = self.card.streams

        def value(t: Tensor) -> Tensor:
            if isinstance(t, CardTensor):
                return t.held
            # A number on the host becomes part of a graph that is being captured.
            return t.clone() if streams.graph and func not in COPIES else t

        out = streams.run(func, *tree_map_only(Tensor, value, (args, kwargs)))
        if func is aten.copy_.default:
            return args[0]

        def placed(t: Tensor) -> Tensor:
            return held[id(t)] if id(t) in held else CardTensor(t)  # itself if changed in place

        return tree_map_only(Tensor, placed, out)

    def _on_host(self, func, args, kwargs):
        out = func(*args, **kwargs)
        if func is aten.zeros.default and torch._C._current_autograd_node() is not None:
            # For a gradient that is not there, autograd makes zeros where it thinks that the
            # tensor is: on the host.
            out.of_either_device = True
        return out

    def _check(self, func, args, tensors, held) -> None:
        """Raise what CUDA would raise."""
        packet = func.overloadpacket
        if kind := PRECISION_OF.get(packet):
            self.card.precisions.add(kind.fp32_precision)
        refused = packet in REFUSED or (packet in REFUSED_OF_FLOATS and args[0].is_floating_point())
        if refused and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(
                f"{func} does not have a deterministic implementation, but you set "
                f"'torch.use_deterministic_algorithms(True)' ({_place()})"
            )
        if packet in PRODUCTS and torch.are_deterministic_algorithms_enabled():
            workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
            assert workspace in WORKSPACES, f"cuBLAS is not deterministic: {workspace}"
        host = [t for t in tensors if not isinstance(t, CardTensor)]
        host = [t for t in host if not hasattr(t, "of_either_device")]
        if packet in INDEXING:
            host = [t for t in host if not any(t is index for index in args[1])]
        if torch.Tag.pointwise in func.tags or packet in TAKES_HOST_SCALARS:
            host = [t for t in host if t.dim()]
        if host and held and func not in COPIES:
            raise DeviceMismatch(f"{func}: tensors of two devices ({_place()})")

    def _count(self, func, args, kwargs) -> None:
        card, packet = self.card, func.overloadpacket
        if func in COPIES:
            source = args[1] if func is aten.copy_.default else args[0]
            target = args[0] if func is aten.copy_.default else None
            self._count_copy(source, target, args, kwargs)
        elif packet in WAITS:
            card.wait(WAITS[packet])
        elif packet in INDEXING:
            self._count_indices(args[1])
        if not func.is_view and packet not in NO_LAUNCH:
            card.streams.launch(str(packet), _launches(packet, args))

    def _count_copy(self, source, target, args, kwargs) -> None:
        from_card = isinstance(source, CardTensor)
        if from_card == (target is None or isinstance(target, CardTensor)):
            return  # within the card
        host = target if from_card else source
        where = "the host" if from_card else "the card"
        non_blocking = kwargs.get("non_blocking") or (target is not None and args[2:3] == (True,))
        if not (non_blocking and self.card.is_pinned(host)):
            self.card.wait(f"copy to {where}")
        if from_card:
            self.card.to_host += source.nbytes
        else:
            self.card.to_card += source.nbytes

    def _count_indices(self, indices) -> None:
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self.card.wait("shape of a boolean index")
            elif isinstance(index, Tensor) and not isinstance(index, CardTensor):
                self.card.wait("copy of an index to the card")
                self.card.to_card += index.nbytes


class _Functions(TorchFunctionMode):
    """Answers what never reaches the dispatcher: where a tensor is, and moves to the host."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if answer := _WHERE.get(getattr(func, "__self__", None)):
            # Below a wrapper of torch.func, only the unwrapped tensor knows.
            return answer if is_on_card(args[0]) else func(*args, **kwargs)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._moved(func, args, kwargs)
        if _is_cuda(kwargs.get("device")):
            if func in (torch.tensor, torch.as_tensor):
                del kwargs["device"]
                return func(*args, **kwargs).to(CUDA)
            kwargs["device"] = CUDA  # with its number, which PyTorch would ask the driver for
        if func is Tensor.is_pinned:
            return self.card.is_pinned(args[0])
        if func is Tensor.pin_memory or kwargs.pop("pin_memory", False):
            return self._pin(args[0] if func is Tensor.pin_memory else func(*args, **kwargs))
        if func is Tensor.tolist and is_on_card(args[0]):
            self.card.wait("values read by Python")
            return args[0].held.tolist()
        if getattr(func, "__self__", None) is Tensor.data and func.__name__ == "__set__":
            return self._set_data(func, *args)
        return func(*args, **kwargs)

    def _moved(self, func, args, kwargs):
        """A tensor moved or converted by `to`, `cpu` or `cuda`."""
        x, *rest = args
        if func is not Tensor.to:
            target, dtype = torch.device("cpu" if func is Tensor.cpu else "cuda"), None
            non_blocking = kwargs.get("non_blocking", False)
        elif rest and isinstance(rest[0], Tensor):
            target, dtype, non_blocking = rest[0].device, rest[0].dtype, False
        else:
            given = {k: v for k, v in kwargs.items() if k != "copy"}
            target, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **given)
        moves = target is not None and is_on_card(x) != (target.type == "cuda")
        if moves and target.type == "cuda":
            return aten._to_copy(x, device=CUDA, dtype=dtype, non_blocking=non_blocking)
        if moves:
            self.card.wait("copy to the host")
            self.card.to_host += x.nbytes
            return x.detach().held.to("cpu", dtype or x.dtype, copy=True)
        keep = {k: v for k, v in kwargs.items() if k in ("copy", "memory_format")}
        return Tensor.to(x, dtype, **keep) if dtype or keep else x

    def _pin(self, x):
        if not self.card.is_pinned(x):
            x = x.clone()
            self.card.pinned.append(x)
        return x

    def _set_data(self, func, x, value):
        func(x, value)
        if isinstance(x, CardTensor):
            x.held = value.held


_WHERE = {Tensor.device: CUDA, Tensor.is_cuda: True}


@contextmanager
def card() -> Iterator[Card]:
    """A process with one make-believe card; yields what is counted."""
    made = Card()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        # What a client worker sets for the whole process is put back.
        stack.enter_context(isolated(0))
        stack.enter_context(patch.dict(os.environ))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        for owner, name, value in _stand_ins(made):
            stack.enter_context(patch.object(owner, name, value))
        # `module.to("cuda")` keeps its Parameter objects, as it does on a card.
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(_Functions(made))
        stack.enter_context(_Operations(made))
        yield made


def _stand_ins(made: Card) -> list[tuple[Any, str, Any]]:
    """What replaces functions of PyTorch that need a driver: (owner, name, value)."""
    cuda, autocast, streams = torch.cuda, torch.autocast, made.streams

    def seed(number: int) -> None:
        made.generator = _generator(number)

    def restore(states: list[Tensor]) -> None:
        (made.generator,) = states

    return [
        (cuda, "_lazy_init", lambda: None),
        (cuda, "is_available", lambda: True),
        (cuda, "is_initialized", lambda: True),
        (cuda, "device_count", lambda: 1),
        (cuda, "current_device", lambda: 0),
        (cuda, "synchronize", lambda device=None: streams.synchronize()),
        (cuda, "Stream", streams.new),
        (cuda, "stream", streams.on),
        (cuda, "current_stream", lambda device=None: streams.current),
        (cuda, "CUDAGraph", lambda: Graph(streams)),
        (cuda, "graph", streams.capture),
        (cuda, "graph_pool_handle", object),
        (cuda, "mem_get_info", lambda device=None: (MEMORY, MEMORY)),
        (cuda, "get_device_name", lambda device=None: made.name),
        (cuda, "get_device_properties", lambda device=None: SimpleNamespace(total_memory=MEMORY)),
        (
            cuda,
            "set_per_process_memory_fraction",
            lambda fraction, device=None: setattr(made, "memory_fraction", fraction),
        ),
        (cuda, "manual_seed_all", seed),
        (cuda, "get_rng_state_all", lambda: [made.generator]),
        (cuda, "set_rng_state_all", restore),
        (torch.backends.cudnn, "is_acceptable", lambda tensor: False),
        # A tensor of this kind cannot be a view that was made in inference mode.
        (torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else nullcontext()),
        (torch, "autocast", lambda device, *args, **kwargs: autocast("cpu", *args, **kwargs)),
    ]
