"""Notices that a process of Ray itself has ended, and ends the experiment with the cause.

Without it, the driver waits on for a while, and then Ray's core worker ends the driver without a
line, so that its tracked runs stay RUNNING.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import worker

from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.processes import guard

log = logging.getLogger(__name__)

# The processes without which a driver cannot go on, in Ray's words.
VITAL = ("raylet", "gcs_server")


@contextmanager
def watched() -> Iterator[None]:
    """Watch the raylet of this node, and the GCS server if it was started by this process.

    If one of them ends, the main thread is interrupted (if it is the one that called), whatever is
    raised becomes an ExecutionError with the cause, and what is left of a Ray of ours is killed.
    """
    watch = _watch()
    try:
        yield
    except BaseException:
        if watch and (cause := watch.cause()):
            watch.kill_rest()
            raise ExecutionError(cause) from None
        raise
    finally:
        if watch:
            watch.stop()


def _watch() -> _Watch | None:
    """A running watch; None where the operating system has none (not Linux, or an old one)."""
    try:
        return _Watch(worker._global_node)
    except (AttributeError, OSError) as error:
        log.debug("the processes of Ray cannot be watched: %s", error)
        return None


class _Watch:
    """Watches processes of a node until `stop`."""

    def __init__(self, node: Any) -> None:
        self.started = {
            name: node.all_processes[name][0].process
            for name in VITAL
            if name in node.all_processes
        }
        pids = {name: process.pid for name, process in self.started.items()}
        if not pids and (raylet := _listening(node.raylet_socket_name)):
            pids["raylet"] = raylet
        self.watched = {os.pidfd_open(pid): (name, pid) for name, pid in pids.items()}
        self.roots = [each.process.pid for kind in node.all_processes.values() for each in kind]
        self.killed_before = guard.out_of_memory_kills()
        self.caller = threading.current_thread()
        self.stopping, self.stopped = os.pipe()
        self.thread = threading.Thread(target=self._wait, name="ray-watch", daemon=True)
        self.thread.start()

    def cause(self) -> str | None:
        """What has ended, and what to do; None if all watched processes run."""
        ended = _ended(list(self.watched), timeout_ms=0)
        if not ended:
            return None
        name, pid = self.watched[ended[0]]
        return f"Ray's {name} (process {pid}) {self._how(name)}, and the experiment with it"

    def _how(self, name: str) -> str:
        code = self.started[name].poll() if name in self.started else None
        if code is None:
            return "has ended"
        if code != -signal.SIGKILL:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            return f"has ended {how} (`ray stop` does that)"
        kills = guard.out_of_memory_kills() - self.killed_before
        if kills > 0:
            return (
                "was killed (SIGKILL) while the kernel's out-of-memory killer ended "
                f"{kills} process{'es' * (kills > 1)}; lower compute.actors"
            )
        return "was killed (SIGKILL)"

    def kill_rest(self) -> None:
        """Kill what is left of a Ray that this process has started."""
        guard.kill_ray(member for pid in self.roots for member in guard.family(pid))

    def stop(self) -> None:
        """Stop watching."""
        os.close(self.stopped)
        self.thread.join()
        for fd in (*self.watched, self.stopping):
            os.close(fd)

    def _wait(self) -> None:
        ended = _ended([*self.watched, self.stopping])
        if self.caller is threading.main_thread() and self.stopping not in ended:
            # A real signal, since it also ends system calls and Ray's waits.
            signal.pthread_kill(self.caller.ident or 0, signal.SIGINT)


def _ended(fds: list[int], timeout_ms: int | None = None) -> list[int]:
    """The descriptors that are ready, which those of processes are from their end on."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(timeout_ms)]


def _listening(path: str) -> int | None:
    """The process that listens on a Unix socket; None if it cannot be told."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid) or None  # 0: in another container
