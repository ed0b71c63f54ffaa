"""Runs whose process was killed do not stay RUNNING: the next command on its host ends them."""

import logging
import subprocess
import sys

import pytest

from fedsmu_ray.tracking.mlflow_writer import PROCESS
from fedsmu_ray.tracking.registry import open_tracker
from tests.helpers.mlflow_runs import connect, held, new_run
from tests.helpers.mlflow_server import Server

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

KILLED = """
import os, sys
from fedsmu_ray.tracking.base import NewRun
from fedsmu_ray.tracking.registry import open_tracker
tracker = open_tracker(sys.argv[1], sys.argv[2])
parent = tracker.start(NewRun("sweep", {}))
trial = tracker.start(NewRun("trial", {}, parent=parent))
tracker.finish(tracker.start(NewRun("done", {}, parent=parent)))
print(parent, trial, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def uri(request, store, tmp_path):
    if request.param == "sqlite":
        yield store
        return
    server = Server(tmp_path).start()
    yield server.uri
    server.kill()


def killed(uri, experiment):
    """The ids of the run of a sweep and of a trial whose process was killed."""
    command = [sys.executable, "-c", KILLED, uri, experiment]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    return done.stdout.split()


def statuses(tracker):
    return {name: values[0] for name, values in held(tracker).items()}


def test_the_next_tracker_ends_runs_of_a_killed_process_and_no_others(uri, tmp_path, caplog):
    alive = connect(uri, tmp_path)
    alive.start(new_run("alive"))
    killed(uri, tmp_path.name)
    elsewhere = alive.start(new_run("elsewhere"))
    client = alive.writer.client.client
    client.set_tag(elsewhere, PROCESS, client.get_run(elsewhere).data.tags[PROCESS][:-30])
    assert statuses(alive)["trial"] == "RUNNING"
    with caplog.at_level(logging.INFO, "fedsmu_ray"):
        again = connect(uri, tmp_path)
    assert statuses(again) == {
        "alive": "RUNNING",
        "elsewhere": "RUNNING",
        "done": "FINISHED",
        "sweep": "KILLED",
        "trial": "KILLED",
    }
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and all("is gone" in line for line in told)


def test_a_resumed_run_belongs_to_the_process_that_resumes_it(uri, tmp_path):
    parent, trial = killed(uri, tmp_path.name)
    tracker = connect(uri, tmp_path)
    assert tracker.resume(parent, new_run("sweep")) == parent
    connect(uri, tmp_path)
    assert statuses(tracker) == {"sweep": "RUNNING", "trial": "KILLED", "done": "FINISHED"}
    tracker.finish(parent)
    assert statuses(tracker)["sweep"] == "FINISHED"


def test_a_store_that_cannot_search_is_told_and_opened(store, tmp_path, caplog, monkeypatch):
    from mlflow import MlflowClient

    def refuse(*args, **kwargs):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(MlflowClient, "search_runs", refuse)
    assert open_tracker(store, tmp_path.name, tmp_path).uri == store
    (record,) = caplog.records
    assert "may stay RUNNING (connection refused)" in record.getMessage()
