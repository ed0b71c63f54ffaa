"""Streams and CUDA graphs of the make-believe card.

A capture runs the operations on real values, since the code that issues them may look at them, and
takes their effects back when it ends. A replay runs them again on the same memory. So a step that
reads a tensor which is not at a fixed place has wrong bits here, as it has on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


class Stream:
    """How much was launched on a stream, and how much on others before it."""

    def __init__(self) -> None:
        self.launched = 0
        self.seen: WeakKeyDictionary[Stream, int] = WeakKeyDictionary()

    def wait_stream(self, other: Stream) -> None:
        for stream, count in [*other.seen.items(), (other, other.launched)]:
            self.seen[stream] = max(count, self.seen.get(stream, 0))


class Graph:
    """Stands in for torch.cuda.CUDAGraph."""

    def __init__(self, streams: Streams) -> None:
        self.streams, self.is_captured = streams, False
        self.operations: list[Callable[[], None]] = []

    def replay(self) -> None:
        assert self.is_captured, "a replay without a capture"
        self.streams.launch("graph")
        for operation in self.operations:
            operation()


class Streams:
    """The streams of a card, and the graph that is being captured on one of them."""

    def __init__(self, card: Any) -> None:
        self.card, self.graph, self.memory = card, None, _Memory()
        self.default = self.current = Stream()
        self.all = WeakSet([self.default])

    def new(self) -> Stream:
        made = Stream()
        self.all.add(made)
        return made

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def launch(self, what: str, times: int = 1) -> None:
        """Count launches; raises if other streams may not be done with what they need."""
        if self.graph is not None:
            return
        for stream in self.all:
            if stream is not self.current and self.current.seen.get(stream, 0) < stream.launched:
                raise AssertionError(f"{what}: its stream has not waited for another one")
        self.current.launched += times
        self.card.launches[what] += times

    def synchronize(self) -> None:
        for stream in self.all:
            for other in self.all:
                stream.wait_stream(other)
        self.card.wait("synchronize")

    @contextmanager
    def capture(
        self, graph: Graph, pool: object, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        """Stands in for torch.cuda.graph."""
        assert stream is not self.default, "a capture on the default stream"
        self.synchronize()
        generator = self.card.generator
        self.graph, self.memory = graph, _Memory()
        try:
            with self.on(stream):
                yield
            graph.is_captured = True
        finally:
            self.graph, self.card.generator = None, generator
            self.memory.restore()

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on values of the card, and record it during a capture."""
        if self.graph is None:
            return self._drawn(func, args, kwargs)
        given = _tensors((args, kwargs))
        self.memory.save(given)
        grad, out = torch.is_grad_enabled(), self._drawn(func, args, kwargs)
        if func.is_view:
            return out
        results = _tensors(out)
        self.memory.add(results, given)

        def again() -> None:
            with torch.set_grad_enabled(grad):  # an LSTM keeps more where there are gradients
                found = _tensors(self._drawn(func, args, kwargs))
            for old, new in zip(results, found, strict=True):
                if old is not new:
                    old.copy_(new)

        self.graph.operations.append(again)
        return out

    def _drawn(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        with self.card.drawing():
            return func(*args, **kwargs)


class _Memory:
    """What a capture has to take back: a capture computes nothing."""

    def __init__(self) -> None:
        self.before: dict[int, tuple[Any, Any]] = {}  # by address: memory, and what was in it
        self.results: list[Tensor] = []

    def save(self, tensors: list[Tensor]) -> None:
        for t in tensors:
            memory = t.untyped_storage()
            if memory.data_ptr() not in self.before:
                self.before[memory.data_ptr()] = memory, memory.clone()

    def add(self, results: list[Tensor], given: list[Tensor]) -> None:
        """Note the results of an operation that are in new memory."""
        old = {t.untyped_storage().data_ptr() for t in given}
        self.results += [t for t in results if t.untyped_storage().data_ptr() not in old]

    def restore(self) -> None:
        for memory, values in self.before.values():
            memory.copy_(values)
        for t in self.results:
            if t.is_floating_point():
                t.fill_(torch.nan)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
