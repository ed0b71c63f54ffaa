"""A run that stands still where a test wants it, and waiting for states rather than for times.

Tests that kill or disturb a process hold its run at a round, act, and let it go on: so they test
the same on a machine of any speed.
"""

import time

METHOD = "import:braked:Braked"  # in place of fedsmu, with the same results

SOURCE = '''
"""FedSMU that waits before it trains any client, after as many server steps as a file says."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from fedsmu_ray.algorithms.fedsmu import FedSMU

FOLDER = Path({folder!r})


def read(name, default):
    try:
        return int((FOLDER / name).read_text())
    except FileNotFoundError:
        return default


def write(name, number):
    part = FOLDER / f"{{name}}.{{os.getpid()}}.part"
    part.write_text(str(number))
    part.replace(FOLDER / name)


@dataclass(frozen=True)
class Braked(FedSMU):
    def client(self, received, state, local):
        while (done := read("steps", 0)) >= read("limit", done + 1):
            write("standing", done)
            time.sleep(0.02)
        return super().client(received, state, local)

    def server(self, server, mean, round):
        write("steps", read("steps", 0) + 1)
        return super().server(server, mean, round)
'''


def wait_for(condition, what, seconds=300):
    """The first true value of `condition()`; `what` it is that never came, for the message."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class Brake:
    """Holds the one run, or the trials one after another, that train METHOD in a folder.

    limit: server steps, over all trials, after which no client is trained.
    """

    def __init__(self, folder, limit):
        self.folder = folder / "brake"
        self.folder.mkdir()
        (folder / "braked.py").write_text(SOURCE.format(folder=str(self.folder)))
        self.move(limit)

    def move(self, limit):
        """Let the run go on to another limit."""
        self.limit = limit
        part = self.folder / "limit.part"
        part.write_text(str(limit))
        part.replace(self.folder / "limit")

    def release(self):
        """Let the run go on to its end."""
        (self.folder / "limit").unlink()

    def wait(self, process):
        """Wait until a client stands at the limit; the command must not end before."""
        standing = self.folder / "standing"

        def stands():
            assert process.poll() is None, process.communicate()
            return standing.exists() and int(standing.read_text()) >= self.limit

        wait_for(stands, f"a client that waits after {self.limit} server steps")

    def advance(self, process, condition, what):
        """Let the run go on, two rounds a second, until `condition()` holds while it stands.

        It goes on for 120 rounds at most.
        """
        for _ in range(60):
            self.wait(process)
            if condition():
                return
            time.sleep(1)
            self.move(self.limit + 2)
        raise AssertionError(f"not within {self.limit} rounds: {what}")
