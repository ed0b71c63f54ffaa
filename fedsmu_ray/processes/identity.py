"""Which process wrote something, and whether it is certainly gone."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

_HOST_NAMESPACE = "pid:[4026531836]"  # of process ids outside of containers; Linux fixes its number


@dataclass(frozen=True)
class Identity:
    """A process of Linux; no two have the same identity."""

    host: str
    pid: int
    started: str  # in clock ticks since the boot
    boot: str
    namespace: str  # of the process ids: that of the host, or of a container
    machine: str  # /etc/machine-id; "" if there is none

    def text(self) -> str:
        """As text, for `parse`."""
        return json.dumps(asdict(self))


def this_process() -> Identity | None:
    """The identity of this process; None where that cannot be told (not on Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace, started = os.readlink("/proc/self/ns/pid"), _started("self")
    except OSError:
        return None
    machine = Path("/etc/machine-id")
    return Identity(
        socket.gethostname(),
        os.getpid(),
        started,
        boot,
        namespace,
        machine.read_text().strip() if machine.is_file() else "",
    )


def parse(text: str) -> Identity | None:
    """The process that a text stands for; None if it is of no known form."""
    try:
        identity = Identity(**json.loads(text))
        return identity if isinstance(identity.pid, int) and identity.pid > 0 else None
    except (TypeError, ValueError):
        return None


def is_gone(other: Identity) -> bool:
    """Whether a process has certainly ended: of another host that is not known."""
    here = this_process()
    if here is None:
        return False
    if (here.boot, here.namespace) == (other.boot, other.namespace):
        return not _is_alive(other)
    is_this_host = (here.host, here.machine) == (other.host, other.machine) and here.machine
    in_no_container = here.namespace == other.namespace == _HOST_NAMESPACE
    return bool(is_this_host and in_no_container and here.boot != other.boot)  # it was rebooted


def _is_alive(other: Identity) -> bool:
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    try:
        return _started(str(other.pid)) == other.started
    except OSError:
        return True  # hidden


def _started(pid: str) -> str:
    """When a process was started; "" for one that has ended and is not collected yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
