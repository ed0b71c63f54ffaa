"""Calls to a tracker from a thread, so that it can neither delay nor stop the training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.tracking.base import Tracker

log = logging.getLogger(__name__)


class Background:
    """Makes the calls to a tracker in order, in a thread of its own.

    The first one that raises is a warning, and the tracker gets no further ones.
    """

    def __init__(self, name: str, tracker: Tracker) -> None:
        """name: as in `tracking.also`."""
        self.name, self.tracker = name, tracker
        self.has_failed = False
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        # Not waited for at the end of the process: a service that hangs would hold it up.
        threading.Thread(target=self._work, name=f"tracking {name}", daemon=True).start()

    def call(self, method: Callable[..., object], *arguments: Any) -> None:
        """Have a method of the tracker called."""
        self._calls.put(lambda: self._guarded(method, arguments))

    def wait(self, timeout_s: float) -> None:
        """Wait until all calls have been made; a warning if that takes longer."""
        done = threading.Event()
        self._calls.put(done.set)
        if not done.wait(timeout_s):
            log.warning(
                "tracking.also = %s: not written within %g s; what is missing in %s may come until "
                "this command ends",
                self.name,
                timeout_s,
                self.tracker.uri,
            )

    def _guarded(self, method: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self.has_failed:
            return
        try:
            method(*arguments)
        except Exception as error:  # of any kind: of a package, a service, or a disk
            self.has_failed = True
            line = " ".join(str(error).split())[:300]
            log.warning(
                "tracking.also = %s: %s cannot be written (%s); the rest of the runs of this "
                "command is not there",
                self.name,
                self.tracker.uri,
                cut_text(f"{type(error).__name__}: {line}"),
            )

    def _work(self) -> None:
        while True:
            self._calls.get()()
