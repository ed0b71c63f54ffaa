"""The death of Ray's own processes: told at once, with the cause, and the runs are ended."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import psutil
import pytest

from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_watch
from tests.helpers.brake import METHOD, Brake
from tests.helpers.commands import command


@pytest.fixture
def vital(monkeypatch):
    """A process that stands for the raylet of this node."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.exit(not sys.stdin.read())"],
        stdin=subprocess.PIPE,
    )
    node = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=process)]})
    monkeypatch.setattr(ray_watch.worker, "_global_node", node)
    # A test of a command in this process may have left its own handler.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield process
    signal.signal(signal.SIGINT, handler)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "end, words",
    [
        (lambda process: process.kill(), r"Ray's raylet \(process \d+\) was killed \(SIGKILL\)"),
        (lambda process: process.terminate(), r"has ended by SIGTERM \(`ray stop` does that\)"),
        (lambda process: process.stdin.close(), "has ended with exit code 1"),
    ],
)
def test_the_end_of_a_vital_process_interrupts_with_the_cause(vital, end, words):
    with pytest.raises(ExecutionError, match=words), ray_watch.watched():
        end(vital)
        while True:  # until the interrupt
            time.sleep(10)


def test_other_errors_and_interrupts_stay_what_they_are(vital):
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), ray_watch.watched():
            raise error
    threads = threading.active_count()
    with ray_watch.watched():
        assert threading.active_count() == threads + 1
    vital.kill()  # nobody watches any more
    assert threading.active_count() == threads


def test_an_error_after_the_end_has_its_cause(vital):
    """What Ray raises when its raylet is gone says nothing to a user."""

    def fail():
        with ray_watch.watched():
            vital.kill()
            vital.wait()
            raise ConnectionError("of Ray")

    raised = []

    def elsewhere():
        try:
            fail()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)  # where nothing can be interrupted
    thread.start()
    thread.join()
    assert isinstance(raised[0], ExecutionError) and "was killed" in str(raised[0])


def test_the_process_that_listens_on_a_socket(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert ray_watch._listening(path) == os.getpid()


def statuses(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return {status for (status,) in store.execute("select status from runs")}


@pytest.mark.slow
@pytest.mark.parametrize("module, victim", [("train", "raylet"), ("tune", "gcs_server")])
def test_a_killed_process_of_ray_ends_the_command_with_the_cause(tmp_path, module, victim):
    """While a client trains, in a run that would never end by itself."""
    brakes = Brake(tmp_path, 1)
    recipe = [f"algorithm.name={METHOD}", "checkpoint.every=1", "tune.baselines=[]"]
    with command(tmp_path, module, *recipe) as process:
        brakes.wait(process)
        family = psutil.Process(process.pid).children(recursive=True)
        next(p for p in family if p.name() == victim).kill()
        out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in out + err
    assert f"error: Ray's {victim} (process " in err and "was killed (SIGKILL)" in err
    assert f"python -m fedsmu_ray.{module} --resume fedsmu_runs/quickstart-" in err
    assert statuses(tmp_path) == {"KILLED"}
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
