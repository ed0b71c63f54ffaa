"""Training steps as CUDA graphs: one launch in place of some sixty, which take longer than it.

A replay runs the kernels of a step on the memory that they had when it was captured, and no Python.
So the vectors and the batch of a step are copied to tensors that stay where they are, and each
shape has a graph of its own. See "CUDA Graphs" in PyTorch's notes on CUDA semantics.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fedsmu_ray.numerics.isolation import gpu_generator_states

log = logging.getLogger(__name__)

EAGER_STEPS = 10  # of a shape before its capture, which takes as long as hundreds of launches
SHAPES, KINDS = 16, 2  # how many are captured of a kind, and how many kinds are kept

Step = Callable[..., None]  # takes the tensors of a batch, and changes the vectors in place


class EagerSteps:
    """The steps of one local training, called as they come."""

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        """vectors: what the steps read and update."""
        self.vectors = list(vectors)

    def run(self, step: Step, batch: Sequence[Tensor]) -> None:
        """Take a step on a batch."""
        step(*batch)

    def store(self, count: int) -> None:
        """Write the first `count` vectors back to where they came from, after the last step."""


class GraphedSteps(EagerSteps):
    """The same on vectors that stay where they are, with replays for steps that were captured.

    Steps have to do the same wherever their batches have the same shapes.
    """

    def __init__(
        self, vectors: Sequence[Tensor], capture: Capture, parameters: Sequence[Tensor]
    ) -> None:
        """parameters: what else the steps change; it stays where it is."""
        super().__init__([_fixed(v) for v in vectors])
        self._state = [*self.vectors, *parameters]
        self._sources: Sequence[Tensor] = ()
        self._capture, self._shapes = capture, dict[Hashable, _Shape]()
        self._room: dict[int, Tensor] = {}  # for each tensor of a batch, of any shape

    def load(self, vectors: Sequence[Tensor]) -> None:
        """Start from the values of vectors that are like those of the constructor."""
        self._sources = vectors
        _copy(self.vectors, vectors)

    def run(self, step: Step, batch: Sequence[Tensor]) -> None:
        """Take a step on a batch, or replay it."""
        key = tuple(b.shape for b in batch)
        if key not in self._shapes:
            self._shapes[key] = _Shape([self._place(i, b) for i, b in enumerate(batch)])
        shape = self._shapes[key]
        # Steps that are not captured read the same memory, so that kernels are chosen alike.
        _copy(shape.batch, batch)
        if shape.graph is not None:
            shape.graph.replay()
            return
        shape.steps += 1
        if shape.steps == EAGER_STEPS and self._captured < SHAPES:
            shape.graph = self._capture(step, shape.batch, self._state)
        else:
            step(*shape.batch)

    def _place(self, index: int, x: Tensor) -> Tensor:
        """Where a tensor of a batch is copied to; batches of all shapes take turns there."""
        if index not in self._room or self._room[index].numel() < x.numel():
            self._room[index] = _fixed(x).flatten()
        return self._room[index][: x.numel()].view(x.shape)

    @property
    def _captured(self) -> int:
        return sum(shape.graph is not None for shape in self._shapes.values())

    def store(self, count: int) -> None:
        """See `EagerSteps`."""
        _copy(self._sources[:count], self.vectors[:count])
        self._sources = ()


@dataclass
class _Shape:
    """Batches of one shape: where they are copied to, and the steps that were taken on them."""

    batch: list[Tensor]
    steps: int = 0
    graph: torch.cuda.CUDAGraph | None = None


Capture = Callable[[Step, Sequence[Tensor], Sequence[Tensor]], torch.cuda.CUDAGraph | None]


class StepGraphs:
    """The graphs of one module on a GPU, for one thread."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        """parameters: of the module."""
        self._parameters = parameters
        self._kinds: OrderedDict[Hashable, GraphedSteps] = OrderedDict()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._failed: torch.cuda.CUDAGraph | None = None
        self.captures = 0  # that are used, or were

    def steps(self, kind: Hashable, vectors: Sequence[Tensor]) -> GraphedSteps:
        """Steps on copies of vectors; only the last that were asked for can be in use.

        Steps of equal kind have to do the same wherever their vectors have the same shapes.
        """
        key = kind, *(v.shape for v in vectors)
        steps = self._kinds.pop(key, None)
        if steps is None and len(self._kinds) == KINDS:
            torch.cuda.synchronize()  # the last replay of what is dropped may not be over
            self._kinds.popitem(last=False)
        steps = steps or GraphedSteps(vectors, self._captured, self._parameters)
        self._kinds[key] = steps
        steps.load(vectors)
        return steps

    def _captured(
        self, step: Step, batch: Sequence[Tensor], state: Sequence[Tensor]
    ) -> torch.cuda.CUDAGraph | None:
        """Take a step and capture it for the next ones; None if that is impossible.

        state: all that the step changes.
        """
        if self._failed is not None:
            step(*batch)
            return None
        current, states = torch.cuda.current_stream(), gpu_generator_states()
        before = [x.clone() for x in state]
        # On the stream of the capture, where libraries have to be warm.
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step(*batch)
        current.wait_stream(self._stream)
        if gpu_generator_states() != states:
            tell("the model draws random numbers")
            return None
        after = [x.clone() for x in state]
        graph = torch.cuda.CUDAGraph()
        try:
            # Graphs share memory, since nothing that they allocate is read after a replay. Other
            # threads (of Ray, say) may use CUDA meanwhile. Nothing is computed in a capture.
            with torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
                step(*batch)
        except Exception as error:
            torch.cuda.synchronize()  # raises if this process can no longer use its GPU
            # Kept, and the last one: after a failure PyTorch's allocator goes on asking this graph.
            self._failed = graph
            tell(f"a capture failed ({type(error).__name__}: {error})")
            return None
        _copy(state, before)
        graph.replay()
        if all(map(_same_bits, state, after)):
            self.captures += 1
            return graph
        _copy(state, after)
        tell("a replay had other bits than the step that was captured")
        return None


@cache
def tell(why: str) -> None:
    """Log, once in a process, why steps are not replayed."""
    log.warning("training steps are launched one by one, not as CUDA graphs: %s", why)


def _fixed(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources):
        target.detach().copy_(source)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.detach().view(torch.int32), other.detach().view(torch.int32))
