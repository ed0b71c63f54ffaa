"""Where the time of an experiment goes: named spans of time from all of its processes.

Nothing is measured unless `Problem.profiled` is set. Client actors and the server send their spans
to the driver with the results they belong to.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

HERE = ""  # the process that holds the spans
LIMIT = 300_000  # spans that a process keeps, about 100 MB
_NOT_MEASURED: AbstractContextManager[None] = nullcontext()


class Span(NamedTuple):
    """A time in which a process did one thing."""

    process: str  # as `Spans.add` was told
    name: str
    began: int  # nanoseconds of time.perf_counter_ns, which the processes of a machine share
    ended: int
    details: dict[str, Any]  # such as round and clients


class SentSpans(NamedTuple):
    """Spans on their way to another process, and what it needs to compare the clocks."""

    spans: list[Span]
    host: str
    wall_offset: int  # nanoseconds from time.perf_counter_ns to time.time_ns


class Spans:
    """The spans that a process has measured or received, in the order in which they ended.

    If `on` is false, or after LIMIT spans, nothing is measured.
    """

    def __init__(self, on: bool) -> None:
        self.on = on
        self.spans: list[Span] = []

    def measure(self, name: str, **details: Any) -> AbstractContextManager[None]:
        """Measure the time of a `with` block; spans may be nested."""
        return self._measured(name, details) if self.on else _NOT_MEASURED

    @contextmanager
    def _measured(self, name: str, details: dict[str, Any]) -> Iterator[None]:
        began = time.perf_counter_ns()
        try:
            yield
        finally:
            self.record(Span(HERE, name, began, time.perf_counter_ns(), details))

    def take(self) -> SentSpans | None:
        """All spans, which are then forgotten, for another process; None if there are none."""
        if not self.spans:
            return None
        spans, self.spans = self.spans, []
        return SentSpans(spans, platform.node(), _wall_offset())

    def add(self, sent: SentSpans | None, process: str) -> None:
        """Add the spans that a process sent.

        Those of another machine are placed by the wall clocks of the two.
        """
        if sent is None:
            return
        shift = 0 if sent.host == platform.node() else sent.wall_offset - _wall_offset()
        for span in sent.spans:
            began, ended = span.began + shift, span.ended + shift
            self.record(span._replace(process=process, began=began, ended=ended))

    def record(self, span: Span) -> None:
        """Add one span."""
        if self.on:
            self.spans.append(span)
            self.on = len(self.spans) < LIMIT


class _Measuring(Protocol):
    spans: Spans


Self = TypeVar("Self", bound=_Measuring)
P = ParamSpec("P")
R = TypeVar("R")


def measured(
    name: str,
) -> Callable[[Callable[Concatenate[Self, P], R]], Callable[Concatenate[Self, P], R]]:
    """Decorator: the calls of a method are spans in the `spans` of its object."""

    def decorate(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
        @wraps(method)
        def call(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with self.spans.measure(name):
                return method(self, *args, **kwargs)

        return call

    return decorate


def _wall_offset() -> int:
    return time.time_ns() - time.perf_counter_ns()
