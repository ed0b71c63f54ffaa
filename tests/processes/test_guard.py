"""The guard of a command: the third interrupt kills, and a sudden end is told."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.brake import wait_for

PRELUDE = """
import itertools, subprocess, sys, time
from fedsmu_ray import cli
from fedsmu_ray.processes import guard

def started():
    guard.note_resume_command("python -m x --resume 'my run'")
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(["sleep", "1000"], stdout=nowhere, stderr=nowhere)

def retry_for_ever():
    child = started()  # kept: an interrupt in its __del__ would be lost
    for told in itertools.chain([child.pid], itertools.repeat("retry")):
        try:
            print(told, flush=True)
            time.sleep(1000)
        except BaseException:
            pass

def never_return_to_python():
    child = started()
    print(child.pid, flush=True)
    sum(itertools.count())

def work():
    child = started()
    try:
        print(child.pid, flush=True)
        time.sleep(1000)
    finally:
        print("cleaned up", flush=True)
        print("cleaned up", file=sys.stderr)

"""


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def heeds_signals():
    """Also where the tests run under nohup or in the background, which ignore some."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start():
    """A function that starts a command in a process of its own."""
    started = []

    def popen(function, **options):
        code = f"{PRELUDE}cli.run(lambda: cli.main({function}))"
        options = {**PIPES, "preexec_fn": heeds_signals, **options}
        started.append(subprocess.Popen([sys.executable, "-c", code], text=True, **options))
        return started[-1]

    yield popen
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def child_of():
    """A function that gives the child that a command has started."""
    found = []

    def child(process):
        found.append(psutil.Process(int(process.stdout.readline())))
        return found[-1]

    yield child
    for process in found:
        if process.is_running():
            process.kill()


def runs_on(process):
    """Wait for longer than what counts as one interrupt; the command must not end."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)


def seconds_of(process):
    """Of CPU time."""
    return psutil.Process(process.pid).cpu_times().user


def ignores(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return int(mask.split()[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize(
    "function, number",
    [
        ("retry_for_ever", signal.SIGINT),
        ("never_return_to_python", signal.SIGTERM),
        ("never_return_to_python", signal.SIGHUP),
    ],
)
def test_the_third_signal_kills_the_command_and_its_children(start, child_of, function, number):
    process = start(function)
    child = child_of(process)
    if function == "never_return_to_python":
        begun = seconds_of(process)
        wait_for(lambda: seconds_of(process) > begun + 0.1, "a process in native code")
    process.send_signal(number)
    runs_on(process)
    process.send_signal(number)
    while not select.select([process.stderr], [], [], 60)[0]:
        process.send_signal(number)  # the guard was not at work, and took two for one
    assert process.stderr.readline() == "still ending; once more kills the processes at once\n"
    runs_on(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert out == ("retry\n" if function == "retry_for_ever" else "")
    assert err == (
        "killed by the third interrupt\n"
        "tracked runs may stay RUNNING until they are resumed: python -m x --resume 'my run'\n"
    )
    _, alive = psutil.wait_procs([child], timeout=120)
    assert not alive


def test_a_signal_to_the_guard_does_not_end_it(start, child_of):
    """`ray job stop` sends SIGTERM to a process and to each of its children."""
    process = start("work")
    child_of(process)
    (guard,) = [p for p in psutil.Process(process.pid).children() if "guard.py" in str(p.cmdline())]
    wait_for(lambda: ignores(guard.pid, signal.SIGTERM), "a guard at work")
    guard.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert (out, err) == ("cleaned up\n", "cleaned up\ninterrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_interrupts(start, child_of, number):
    process = start("work")
    child = child_of(process)
    runs_on(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "cleaned up\n")
    assert err == "cleaned up\ninterrupted\n"
    assert child.is_running()  # not touched where the command ends by itself


def test_the_cleanup_goes_on_when_the_terminal_is_closed(start, child_of):
    terminal, end = pty.openpty()
    process = start("work", stderr=end)
    os.close(end)
    child_of(process)
    runs_on(process)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "cleaned up\n")


def test_nohup_is_respected(start, child_of):
    process = start("work", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    child_of(process)
    runs_on(process)
    process.send_signal(signal.SIGHUP)
    runs_on(process)


def test_a_sudden_end_is_told_with_the_command_that_resumes(start, child_of):
    process = start("work")
    child_of(process)
    process.kill()
    _, err = process.communicate(timeout=120)
    assert err.startswith("error: the process of the command has ended suddenly: ")
    assert err.endswith("until they are resumed: python -m x --resume 'my run'\n")


@pytest.mark.parametrize(
    "function, code, words",
    [("lambda: 3", 3, ""), ("lambda: 1 / 0", 1, "division by zero\n"), ("sys.exit", 0, "")],
)
def test_an_end_of_its_own_is_not_told(start, function, code, words):
    process = start(function)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code and out == "" and "suddenly" not in err
    assert err.endswith(words) and (words or err == "")
