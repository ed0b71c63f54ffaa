"""MLflow that goes away and comes back: training goes on, and every point is there once."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from fedsmu_ray.config.schema import TrackingConfig
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking import mlflow as tracking

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # MLflow's own, of its database layer

CONFIG = parse({"name": "t", "federation": {"rounds": 40}})


class Line:
    """A client whose store can be away: `up` False raises, `deaf` does the work and loses the answer."""

    def __init__(self, client):
        self.client, self.up, self.deaf, self.asked = client, True, False, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.asked += 1
            if not self.up:
                raise ConnectionError("connection refused")
            answer = getattr(self.client, name)(*args, **kwargs)
            if self.deaf:
                raise ConnectionError("the answer was lost")
            return answer

        return call


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store, tmp_path, monkeypatch):
    for name, seconds in (
        ("FLUSH_S", 0.0),
        ("LONGEST_WAIT_S", 0.0),
        ("PATIENCE_S", 0.3),
        ("HURRY_S", 0.1),
    ):
        monkeypatch.setattr(tracking, name, seconds)
    opened = tracking.open_tracker(TrackingConfig(uri=store, experiment=tmp_path.name), tmp_path)
    opened.client = Line(opened.client)
    return opened


def values(step):
    return {"train/loss": 1 / step, "test/accuracy": step / 100}


def held(tracker):
    """What the store has: {run name: (status, parameters, tags, {metric: [(step, value)]}, config.yaml or None)}."""
    client = tracker.client.client
    out = {}
    for run in client.search_runs([tracker.experiment]):
        run_id = run.info.run_id
        history = {
            k: [(m.step, m.value) for m in client.get_metric_history(run_id, k)]
            for k in run.data.metrics
        }
        files = [f.path for f in client.list_artifacts(run_id)]
        assert run.info.run_name not in out
        out[run.info.run_name] = run.info.status, run.data.params, run.data.tags, history, files
    return out


def points(steps):
    return {
        "train/loss": [(s, 1 / s) for s in steps],
        "test/accuracy": [(s, s / 100) for s in steps],
    }


def test_a_sweep_outlives_its_store(tracker, caplog):
    line = tracker.client
    parent = tracker.start("sweep", CONFIG, {"fedsmu.sweep": "parent"})
    first = tracker.start("first", CONFIG, parent=parent)
    tracker.log(first, values(1), 1)
    line.up = False
    for step in range(2, 301):
        tracker.log(first, values(step), step)
    second = tracker.start(
        "second", CONFIG, parent=parent
    )  # begins, trains and ends while nobody answers
    tracker.log(second, values(1), 1)
    tracker.finish(second, values={"final/x": 2.0}, tags={"fedsmu.status": "completed"})
    tracker.finish(first, "KILLED")
    line.up = True
    third = tracker.start("third", CONFIG, parent=parent)
    tracker.finish(third)
    tracker.finish(parent, tags={"fedsmu.best_run": second})
    runs = held(tracker)
    assert not tracker.waiting and set(runs) == {"sweep", "first", "second", "third"}
    by_name = {
        r.info.run_name: r.info.run_id for r in line.client.search_runs([tracker.experiment])
    }
    assert by_name["first"] == first and by_name["second"] != second
    assert [runs[n][0] for n in ("sweep", "first", "second", "third")] == [
        "FINISHED",
        "KILLED",
        "FINISHED",
        "FINISHED",
    ]
    assert runs["first"][3] == points(range(1, 301))
    assert runs["second"][3] == {**points([1]), "final/x": [(0, 2.0)]}
    assert (
        runs["second"][2]["fedsmu.status"] == "completed"
        and runs["sweep"][2]["fedsmu.best_run"] == by_name["second"]
    )
    for name in ("first", "second", "third"):
        assert runs[name][2]["mlflow.parentRunId"] == by_name["sweep"] == parent
        assert runs[name][1]["federation.rounds"] == "40" and runs[name][4] == ["config.yaml"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert (
        len(warnings) == 1
        and "does not answer (connection refused)" in warnings[0]
        and "\n" not in warnings[0]
    )
    assert list(tracker.folder.iterdir()) == []


def test_lost_answers_write_nothing_twice(tracker):
    tracker.client.deaf = True
    run = tracker.start("deaf", CONFIG)
    for step in range(1, 6):
        tracker.log(run, values(step), step)  # every attempt gets one thing further, unheard
    tracker.client.deaf = False
    tracker.finish(run, tags={"a": "b"})
    ((name, (status, params, tags, history, files)),) = held(tracker).items()
    assert (name, status, tags["a"], files) == ("deaf", "FINISHED", "b", ["config.yaml"])
    assert history == points(range(1, 6)) and params["federation.rounds"] == "40"


@pytest.mark.parametrize("away", [False, True])
def test_a_resumed_run_gets_no_point_twice(tracker, away):
    run = tracker.start("resumed", CONFIG)
    for step in (1, 2, 3):
        tracker.log(run, values(step), step)
    again = tracking.open_tracker(
        TrackingConfig(uri=tracker.uri, experiment=tracker.folder.name), tracker.folder
    )
    again.client = Line(again.client)
    again.client.up = not away
    assert again.resume(run) == (0 if away else 3)
    for step in range(1 if away else 4, 6):
        again.log(run, values(step), step)
    again.client.up = True
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points(range(1, 6))


def test_a_run_begun_without_the_store_is_found_again_by_the_next_process(tracker):
    tracker.client.up = False
    run = tracker.start("begun away", CONFIG)
    tracker.log(run, values(1), 1)
    tracker.client.up = True
    tracker.flush()  # and now the process is killed
    again = tracking.open_tracker(
        TrackingConfig(uri=tracker.uri, experiment=tracker.folder.name), tracker.folder
    )
    again.client = Line(again.client)
    assert run.startswith("local-") and again.resume(run) == 1
    again.log(run, values(2), 2)
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points([1, 2])


def test_what_a_store_never_took_is_left_in_a_file(tracker, caplog):
    run = tracker.start("alone", CONFIG)
    tracker.client.up = False
    for step in range(1, 4):
        tracker.log(run, values(step), step)
    tracker.finish(run, values={"final/x": 1.0})
    (path,) = tracker.folder.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["run"], line["what"]) for line in lines] == [
        (run, "metrics"),
        (run, "metrics"),
        (run, "end"),
    ]
    assert [(step, of) for step, _, of in lines[0]["values"]] == [(s, values(s)) for s in (1, 2, 3)]
    said = [r.getMessage() for r in caplog.records]
    assert (
        len(said) == 3
        and "does not answer" in said[0]
        and "trying for up to" in said[1]
        and str(path) in said[2]
    )


def test_what_the_store_refuses_is_left_in_a_file_and_holds_nothing_up(tracker, caplog):
    run, other = tracker.start("deleted", CONFIG), tracker.start("other", CONFIG)
    tracker.client.client.delete_run(run)
    tracker.log(run, values(1), 1)
    tracker.log(other, values(1), 1)
    tracker.finish(run)
    tracker.finish(other)
    assert held(tracker)["other"][3] == points([1])
    (path,) = tracker.folder.iterdir()
    assert (
        json.loads(path.read_text().splitlines()[0])["run"] == run
        and "refuses the metrics" in caplog.text
    )


def test_a_broken_store_of_files_holds_up_no_metrics(tracker, monkeypatch):
    monkeypatch.setattr(
        tracker.client.client,
        "log_text",
        lambda *_: (_ for _ in ()).throw(RuntimeError("no credentials")),
    )
    run = tracker.start("no files", CONFIG)
    tracker.log(run, values(1), 1)
    tracker.finish(run)
    status, params, _, history, files = held(tracker)["no files"]
    assert status == "FINISHED" and history == points([1]) and params and files == []


def test_a_store_that_is_away_is_left_alone_between_attempts(tracker, monkeypatch):
    monkeypatch.setattr(mlflow, "FLUSH_S", 1000.0)
    run = tracker.start("patient", CONFIG)
    tracker.client.up = False
    tracker.due = 0.0
    tracker.log(run, values(1), 1)
    asked = tracker.client.asked
    for step in range(2, 50):
        tracker.log(run, values(step), step)
    tracker.start("another", CONFIG)
    assert tracker.client.asked == asked


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "nonsense://x", "http://", "sqlite:////proc/nowhere/x.db"]
)
def test_a_store_that_never_answered_is_a_mistake(uri):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="mlflow.uri"):
        tracking.open_tracker(TrackingConfig(uri=uri))
    assert time.monotonic() - began < 60


class Server:
    """`mlflow server` on a port of its own."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                f"sqlite:///{self.folder}/mlflow.db",
                "--artifacts-destination",
                str(self.folder / "artifacts"),
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            ],
            cwd=self.folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return self
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


PLAIN = {
    "name": "away",
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 4000, "cohort": 5, "eval_every": 20},
    "compute": {"executor": "inline", "cpus_per_actor": 0.5},
}


def written(folder, **changes):
    (folder / "r.yaml").write_text(json.dumps({**PLAIN, **changes}))
    return "r.yaml"


def begin(folder, home, module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"fedsmu_ray.{module}", *arguments, "--json"],
        cwd=folder,
        text=True,
        env={**os.environ, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def runs_of(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("fedsmu")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return client, {run.info.run_name: run for run in found}


def wait_for(condition, seconds=120):
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to that")


@pytest.mark.slow
def test_a_server_killed_in_mid_run_and_started_again_a_minute_later(tmp_path, home):
    server = Server(tmp_path).start()
    try:
        process = begin(
            tmp_path,
            home,
            "train",
            written(tmp_path),
            f"mlflow.uri={server.uri}",
            "federation.rounds=8000",
        )
        wait_for(lambda: (run := runs_of(server.uri)[1].get("away")) and run.data.metrics)
        server.kill()
        killed = time.time()
        time.sleep(60)
        back = time.time()
        server.start()
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        result = json.loads(out.splitlines()[-1])
        client, runs = runs_of(server.uri)
        (run,) = runs.values()
        assert (
            run.info.status == "FINISHED"
            and run.data.tags["model_sha256"] == result["model_sha256"]
        )
        history = client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [m.step for m in history] == list(range(20, 8001, 20))
        assert (
            sum(killed < m.timestamp / 1000 < back for m in history) > 10
        )  # rounds trained meanwhile
        said = [
            line for line in err.splitlines() if "MLflow" in line
        ]  # a fast machine is done before the minute is over
        assert (
            "does not answer" in said[0]
            and ["is still away" in line for line in said[1:]] in ([], [True])
            and "Traceback" not in err
        )
    finally:
        server.kill()


@pytest.mark.slow
def test_a_sweep_begins_and_ends_trials_without_its_server(tmp_path, home):
    server = Server(tmp_path).start()
    space = {"algorithm.gamma1": {"grid": [0.01, 0.02, 0.03]}}
    try:
        process = begin(
            tmp_path,
            home,
            "tune",
            written(tmp_path, tune={"space": space, "concurrent": 1}),
            f"mlflow.uri={server.uri}",
            "federation.rounds=1000",
        )
        wait_for(lambda: any(run.data.metrics for run in runs_of(server.uri)[1].values()))
        server.kill()
        folder = tmp_path / "fedsmu_runs"
        wait_for(
            lambda: (
                "".join(p.read_text() for p in folder.glob("*/trials.jsonl")).count('"end"') >= 2
            )
        )
        server.start()
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        result = json.loads(out.splitlines()[-1])
        client, runs = runs_of(server.uri)
        assert len(runs) == 4 and {run.info.status for run in runs.values()} == {"FINISHED"}
        for trial in result["trials"]:
            run = runs[trial["name"]]
            assert run.data.tags["model_sha256"] == trial["model_sha256"]
            assert run.data.tags["mlflow.parentRunId"] == runs["away"].info.run_id
            assert [
                m.step for m in client.get_metric_history(run.info.run_id, "test/accuracy")
            ] == list(range(20, 1001, 20))
            assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
        assert not list(folder.glob("not-in-mlflow*")) and "Traceback" not in err
    finally:
        server.kill()
