"""A small process beside a command: the third interrupt kills the command, whatever it does.

It does what the command's own process cannot do for sure. User code can swallow KeyboardInterrupt,
native code may never return to the interpreter, which is where signal handlers of Python run, and
a process that is killed (by the kernel's out-of-memory killer, or by Ray's core worker) cannot say
so. Python writes the number of every signal that it receives to a pipe at once, from the signal
handler proper; this process reads that pipe. Linux only in part: elsewhere, processes that the
command has started are not killed with it.

It runs as a script, on the standard library alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLING_INTERRUPT = 3  # the first interrupts, the second is told that the third kills
SAME_INTERRUPT_S = 0.1  # some senders (`timeout`) signal a process and then its group
POLL_INTERVAL_S = 1.0
NOTE, END = 0, 255  # bytes that are no signals: around a note, and before an orderly end

_guard: subprocess.Popen[bytes] | None = None  # of this process


def start() -> None:
    """Start the guard of this process. Must be called in the main thread."""
    global _guard
    if _guard is None:
        _guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # signals to the command's group are not for the guard
        )
        pipe = _pipe()
        os.set_blocking(pipe, False)
        signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
        atexit.register(stop)


def note_resume_command(command: str) -> None:
    """Tell the guard, if there is one, by which command the work of this process is resumed."""
    if _guard is not None:
        _write(bytes([NOTE]) + command.encode() + bytes([NOTE]))


def stop() -> None:
    """Tell the guard that this process ends by itself."""
    global _guard
    if _guard is not None:
        signal.set_wakeup_fd(-1)
        _write(bytes([END]))
        _guard.communicate()
        _guard = None


def _pipe() -> int:
    assert _guard is not None and _guard.stdin is not None
    return _guard.stdin.fileno()


def _write(data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the guard has been killed
        os.write(_pipe(), data)


def watch(pid: int, pipe: int) -> str:
    """Watch a process until it ends; returns a message if it has not ended by itself."""
    interrupts, last, resume, kills, members = 0, 0.0, "", out_of_memory_kills(), family(pid)
    while True:
        data = os.read(pipe, 65536) if select.select([pipe], [], [], POLL_INTERVAL_S)[0] else None
        if data == b"" or (data is None and os.getppid() != pid):
            kill_ray(members)
            return _sudden_end(out_of_memory_kills() - kills, resume)
        members = family(pid)
        signals, notes = _parse(data or b"")
        resume = notes[-1] if notes else resume
        if END in signals:
            return ""
        if set(signals) & set(SIGNALS) and time.monotonic() - last > SAME_INTERRUPT_S:
            interrupts, last = interrupts + 1, time.monotonic()
            if interrupts == KILLING_INTERRUPT - 1:
                print("still ending; once more kills the processes at once", file=sys.stderr)
            elif interrupts == KILLING_INTERRUPT:
                kill(members)
                return f"killed by the third interrupt{_hint(resume)}"


def _parse(data: bytes) -> tuple[bytes, list[str]]:
    """Signals and notes: a note is written at once, so none is read in parts."""
    parts = data.split(bytes([NOTE]))
    return b"".join(parts[::2]), [part.decode() for part in parts[1::2]]


def _sudden_end(kills: int, resume: str) -> str:
    cause = "it was killed, perhaps by the kernel for want of memory, or by Ray after its raylet"
    if kills > 0:
        cause = f"the kernel's out-of-memory killer ended {kills} process{'es' * (kills > 1)}"
    return f"error: the process of the command has ended suddenly: {cause}{_hint(resume)}"


def _hint(resume: str) -> str:
    hint = "\ntracked runs may stay RUNNING until they are resumed"
    return f"{hint}: {resume}" if resume else ""


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    file = Path("/proc/vmstat")
    counters = file.read_text(encoding="ascii").split() if file.exists() else []
    return int(counters[counters.index("oom_kill") + 1]) if "oom_kill" in counters else 0


def family(pid: int) -> list[int]:
    """A process and its descendants except this one; a Ray that it has started is among them."""
    members = [pid]
    for member in members:  # which grows
        with contextlib.suppress(OSError):  # it ends just now
            for children in Path(f"/proc/{member}/task").glob("*/children"):
                members += map(int, children.read_text(encoding="ascii").split())
    return [member for member in members if member != os.getpid()]


def _name(pid: int) -> str:
    """The name of a process; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    return ""


def kill(pids: Iterable[int]) -> None:
    """Kill the processes that still exist."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_ray(pids: Iterable[int]) -> None:
    """Kill those of the processes that are Ray's: some of them wait for its others for minutes."""
    kill(pid for pid in pids if _name(pid).startswith("ray"))


def main() -> None:
    """Watch the process in the first argument, which writes to stdin."""
    for number in SIGNALS:  # `ray job stop` signals a process and each of its children
        signal.signal(number, signal.SIG_IGN)
    message = watch(int(sys.argv[1]), sys.stdin.fileno())
    if message:
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # the progress display hides it
        print(f"{show_cursor}{message}", file=sys.stderr)


if __name__ == "__main__":
    main()
