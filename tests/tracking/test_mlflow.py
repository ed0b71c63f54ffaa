"""MLflow: an unreachable server does not stop training, and every point is written once."""

import json
import logging
import os
import re
import select
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking import mlflow as tracking
from fedsmu_ray.tracking.base import NewRun
from fedsmu_ray.tracking.registry import open_tracker
from tests.helpers.brake import METHOD, Brake, wait_for
from tests.helpers.commands import command
from tests.helpers.slow_proxy import slow_proxy
from tests.helpers.tracked import client_of, have_points, runs_of

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PARAMS = {"federation.rounds": "40"}
FILES = {"config.yaml": "federation: {rounds: 40}"}


def new_run(name, tags=None, parent=None):
    return NewRun(name, PARAMS, tags or {}, FILES, parent)


class Connection:
    """A client whose store can be unreachable.

    With `is_up` False every call raises; with `loses_responses` it is executed and then raises.
    """

    def __init__(self, client):
        self.client, self.is_up, self.loses_responses, self.calls = client, True, False, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            if not self.is_up:
                raise ConnectionError("connection refused")
            response = getattr(self.client, name)(*args, **kwargs)
            if self.loses_responses:
                raise ConnectionError("the response was lost")
            return response

        return call


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store, tmp_path, monkeypatch):
    for name, seconds in (
        ("FLUSH_INTERVAL_S", 0.0),
        ("MAX_RETRY_INTERVAL_S", 0.0),
        ("FINAL_FLUSH_TIMEOUT_S", 0.3),
        ("ABORTED_FLUSH_TIMEOUT_S", 0.1),
    ):
        monkeypatch.setattr(tracking, name, seconds)
    return connect(store, tmp_path)


def connect(uri, folder):
    """Open a tracker whose client is a Connection, as another process would."""
    opened = open_tracker(uri, folder.name, folder)
    opened.writer.client = Connection(opened.writer.client)
    return opened


def values(step):
    return {"train/loss": 1 / step, "test/accuracy": step / 100}


def held(tracker):
    """The content of the store by run name.

    Each value is (status, parameters, tags, {metric: [(step, value)]}, config.yaml or None).
    """
    client = tracker.writer.client.client
    out = {}
    for run in client.search_runs([tracker.writer.experiment_id]):
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


def test_a_sweep_continues_while_its_store_is_unreachable(tracker, caplog):
    connection = tracker.writer.client
    parent = tracker.start(new_run("sweep", {"fedsmu.sweep": "parent"}))
    first = tracker.start(new_run("first", parent=parent))
    tracker.log(first, values(1), 1)
    connection.is_up = False
    for step in range(2, 301):
        tracker.log(first, values(step), step)
    second = tracker.start(
        new_run("second", parent=parent)
    )  # starts, trains and ends while the store is unreachable
    tracker.log(second, values(1), 1)
    tracker.finish(second, metrics={"final/x": 2.0}, tags={"fedsmu.status": "completed"})
    tracker.finish(first, "KILLED")
    connection.is_up = True
    third = tracker.start(new_run("third", parent=parent))
    tracker.finish(third)
    tracker.finish(parent, tags={"fedsmu.best_run": second})
    runs = held(tracker)
    assert not tracker.has_pending_writes() and set(runs) == {"sweep", "first", "second", "third"}
    found = connection.client.search_runs([tracker.writer.experiment_id])
    by_name = {r.info.run_name: r.info.run_id for r in found}
    assert by_name["first"] == first and by_name["second"] != second
    assert [runs[n][0] for n in ("sweep", "first", "second", "third")] == [
        "FINISHED",
        "KILLED",
        "FINISHED",
        "FINISHED",
    ]
    assert runs["first"][3] == points(range(1, 301))
    assert runs["second"][3] == {**points([1]), "final/x": [(0, 2.0)]}
    assert runs["second"][2]["fedsmu.status"] == "completed"
    assert runs["sweep"][2]["fedsmu.best_run"] == by_name["second"]
    for name in ("first", "second", "third"):
        assert runs[name][2]["mlflow.parentRunId"] == by_name["sweep"] == parent
        assert runs[name][1]["federation.rounds"] == "40" and runs[name][4] == ["config.yaml"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "does not respond (connection refused)" in warnings[0]
    assert list(tracker.folder.iterdir()) == []


def test_a_run_has_the_parameters_tags_and_files_it_was_given(tracker):
    run = tracker.start(
        NewRun("given", {"a": "1", "b": "x"}, {"t": "u"}, {"one.txt": "1", "two.txt": "2"})
    )
    tracker.finish(run)
    status, params, tags, history, files = held(tracker)["given"]
    assert (status, params, tags["t"], history) == ("FINISHED", {"a": "1", "b": "x"}, "u", {})
    assert sorted(files) == ["one.txt", "two.txt"] and tags["fedsmu.id"].startswith("local-")


def test_lost_responses_write_nothing_twice(tracker):
    tracker.writer.client.loses_responses = True
    run = tracker.start(new_run("deaf"))
    for step in range(1, 6):
        tracker.log(
            run, values(step), step
        )  # every attempt executes one more write without a response
    tracker.writer.client.loses_responses = False
    tracker.finish(run, tags={"a": "b"})
    ((name, (status, params, tags, history, files)),) = held(tracker).items()
    assert (name, status, tags["a"], files) == ("deaf", "FINISHED", "b", ["config.yaml"])
    assert history == points(range(1, 6)) and params["federation.rounds"] == "40"


@pytest.mark.parametrize("is_up", [True, False])
def test_a_round_that_is_logged_twice_is_written_once(tracker, is_up):
    """As after a restart from a checkpoint, with the first rounds written or still queued."""
    run = tracker.start(new_run("repeated"))
    tracker.writer.client.is_up = is_up
    for step in (1, 2, 3, 2, 3, 4, 4):
        tracker.log(run, values(step), step)
    tracker.writer.client.is_up = True
    for step in (1, 4, 5):
        tracker.log(run, values(step), step)
    tracker.finish(run, metrics={"final/x": 2.0})
    ((status, _, _, history, _),) = held(tracker).values()
    assert status == "FINISHED" and history == {**points(range(1, 6)), "final/x": [(0, 2.0)]}


@pytest.mark.parametrize("is_up", [True, False])
def test_a_resumed_run_gets_no_point_twice(tracker, is_up):
    run = tracker.start(new_run("resumed"))
    for step in (1, 2, 3):
        tracker.log(run, values(step), step)
    again = connect(tracker.uri, tracker.folder)
    again.writer.client.is_up = is_up
    again.resume(run, new_run("again"))
    assert again._runs[run].cursor.last == (3 if is_up else 0)
    for step in range(1, 6):
        again.log(run, values(step), step)
    again.writer.client.is_up = True
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points(range(1, 6))


def test_a_run_that_ended_and_is_resumed_in_the_same_process_gets_no_point_twice(tracker):
    run = tracker.start(new_run("ended"))
    tracker.log(run, values(1), 1)
    tracker.finish(run, "FAILED", {"final/x": 1.0})
    tracker.resume(run, new_run("again"))
    for step in (1, 2):
        tracker.log(run, values(step), step)
    tracker.finish(run, "FINISHED", {"final/x": 2.0})
    ((status, _, _, history, _),) = held(tracker).values()
    final = history.pop("final/x")
    assert status == "FINISHED" and history == points([1, 2])
    assert sorted(final) == [(0, 1.0), (0, 2.0)]  # final metrics are not rounds


def test_a_run_started_without_the_server_is_found_again_by_the_next_process(tracker):
    tracker.writer.client.is_up = False
    run = tracker.start(new_run("started offline"))
    tracker.log(run, values(1), 1)
    tracker.writer.client.is_up = True
    tracker.flush()  # then the process is killed
    again = connect(tracker.uri, tracker.folder)
    again.resume(run, new_run("again"))
    assert run.startswith("local-") and again._runs[run].cursor.last == 1
    again.log(run, values(1), 1)
    again.log(run, values(2), 2)
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points([1, 2])


def test_points_that_could_not_be_written_are_saved_in_a_file(tracker, caplog):
    run = tracker.start(new_run("alone"))
    tracker.writer.client.is_up = False
    for step in (1, 2, 1, 2, 3):
        tracker.log(run, values(step), step)
    tracker.finish(run, metrics={"final/x": 1.0})
    (path,) = tracker.folder.iterdir()
    assert re.fullmatch(r"not-in-mlflow-\d{8}-\d{6}-\d+\.jsonl", path.name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["run"], line["what"]) for line in lines] == [
        (run, "metrics"),
        (run, "metrics"),
        (run, "end"),
    ]
    assert [(step, of) for step, _, of in lines[0]["values"]] == [(s, values(s)) for s in (1, 2, 3)]
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 3 and "does not respond" in said[0] and "retrying for up to" in said[1]
    assert str(path) in said[2]


def test_a_warning_is_logged_if_that_file_cannot_be_written(tracker, caplog):
    run = tracker.start(new_run("lost"))
    tracker.writer.client.is_up = False
    tracker.folder = tracker.folder / "file" / "folder"
    tracker.folder.parent.write_text("")
    tracker.finish(run)
    assert "what is missing there is lost" in caplog.records[-1].getMessage()
    assert "Not a directory" in caplog.records[-1].getMessage()


def test_points_that_the_store_rejects_are_saved_in_a_file_and_delay_nothing(tracker, caplog):
    run, other = tracker.start(new_run("deleted")), tracker.start(new_run("other"))
    tracker.writer.client.client.delete_run(run)
    tracker.log(run, values(1), 1)
    tracker.log(other, values(1), 1)
    tracker.finish(run)
    tracker.finish(other)
    assert held(tracker)["other"][3] == points([1])
    (path,) = tracker.folder.iterdir()
    assert json.loads(path.read_text().splitlines()[0])["run"] == run
    assert "refuses run" in caplog.text


def test_a_run_that_was_deleted_is_resumed_as_a_new_one_with_everything(tracker, caplog):
    run = tracker.start(new_run("old"))
    tracker.log(run, values(1), 1)
    tracker.writer.client.client.delete_run(run)
    again = connect(tracker.uri, tracker.folder)
    new = again.resume(run, new_run("new"))
    assert new != run and f"run {run} was deleted in MLflow at {tracker.uri}; a new" in caplog.text
    for step in (1, 2):
        again.log(new, values(step), step)
    again.finish(new)
    ((name, (status, params, _, history, files)),) = held(again).items()
    assert (name, status, history, files) == ("new", "FINISHED", points([1, 2]), ["config.yaml"])
    assert params["federation.rounds"] == "40" and again.missing is None
    # The next process that knows only the old id finds the new run.
    assert connect(tracker.uri, tracker.folder).resume(run, new_run("third")) == new


@pytest.mark.parametrize("is_up", [True, False])
def test_a_run_of_another_store_or_experiment_is_begun_anew(tracker, tmp_path, caplog, is_up):
    elsewhere = open_tracker(tracker.uri, "elsewhere", tmp_path)
    other = elsewhere.start(new_run("other"))
    elsewhere.log(other, values(1), 1)
    tracker.writer.client.is_up = is_up
    ids = [tracker.resume(run, new_run(f"for {run}")) for run in (other, "0" * 32, "local-1")]
    tracker.writer.client.is_up = True
    for run in ids:
        tracker.log(run, values(1), 1)
        tracker.finish(run)
    assert {name: run[3] for name, run in held(tracker).items()} == {
        f"for {run}": points([1]) for run in (other, "0" * 32, "local-1")
    }
    assert "belongs to another experiment in" in caplog.text and "is not in MLflow" in caplog.text
    assert list(tracker.folder.iterdir()) == []


def test_a_finished_run_that_is_resumed_gets_its_final_points_once(tracker):
    final = {"final/x": 1.0, "final/nan": float("nan"), "final/seconds": 10.0}
    run = tracker.start(new_run("finished"))
    tracker.log(run, values(1), 1)
    tracker.finish(run, metrics=final)
    again = connect(tracker.uri, tracker.folder)
    again.resume(run, new_run("again"))
    again.log(run, values(1), 1)
    again.finish(run, metrics={**final, "final/seconds": 0.1})
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history["test/accuracy"] == [(1, 0.01)]
    assert [len(history[name]) for name in final] == [1, 1, 1]
    assert history["final/seconds"] == [(0, 10.0)]
    # With more rounds the values are new ones.
    third = connect(tracker.uri, tracker.folder)
    third.resume(run, new_run("third"))
    third.log(run, values(2), 2)
    third.finish(run, metrics={"final/x": 2.0, "final/seconds": 3.0})
    data = third.writer.client.client.get_run(run).data.metrics
    assert (data["final/x"], data["final/seconds"]) == (2.0, 3.0)


def test_a_refused_first_run_is_an_error_and_a_refused_trial_goes_to_the_file(tracker, caplog):
    parent = tracker.start(new_run("sweep"))
    first = tracker.start(new_run("first", parent=parent))
    tracker.writer.client.client.delete_experiment(tracker.writer.experiment_id)
    with pytest.raises(ConfigError, match="MLflow refuses the run .*'active' state"):
        tracker.start(new_run("another sweep"))
    assert not caplog.records
    second = tracker.start(new_run("second", parent=parent))
    for run in (first, second):
        tracker.log(run, values(1), 1)
        tracker.finish(run)
    tracker.finish(parent)
    refused = [r.getMessage() for r in caplog.records if "refuses run" in r.getMessage()]
    assert len(refused) == 3 and "is not in MLflow" in refused[0]
    (path,) = tracker.folder.iterdir()
    assert tracker.missing == str(path) and path.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["what"] for line in lines if line["run"] == second] == [
        "create",
        "params",
        "config.yaml",
        "metrics",
        "end",
    ]


def test_credentials_that_are_denied_are_an_error_before_training_only(tracker, monkeypatch):
    from mlflow.exceptions import RestException

    run = tracker.start(new_run("before"))

    def deny(*arguments, **options):
        raise RestException({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})

    monkeypatch.setattr(tracker.writer.client.client, "create_run", deny)
    monkeypatch.setattr(tracker.writer.client.client, "log_batch", deny)
    with pytest.raises(ConfigError, match="refuses the run .*Permission denied.* credentials"):
        tracker.start(new_run("denied"))
    tracker.log(run, values(1), 1)
    monkeypatch.undo()
    tracker.next_flush = 0.0
    tracker.finish(run)  # the permission is back
    assert held(tracker)["before"][3] == points([1]) and tracker.missing is None


def test_one_bad_parameter_does_not_lose_the_others(tracker, caplog):
    params = {"dropout (%)": "0.5", "bad": "\ud800", "long": "v" * 7000}
    params |= {f"p{i}": "None" for i in range(150)}
    run = tracker.start(NewRun("n" * 600, params, {"tag (1)": "t" * 9000}, FILES))
    tracker.log(run, {"loss (%)": 1.0}, 1)
    tracker.writer.client.client.log_param(run, "taken", "1")
    tracker._pending(run).add("params", {"taken": "2", "free": "3"})
    tracker.finish(run, tags={"a/../b": "c"})
    ((name, (status, params, tags, history, _)),) = held(tracker).items()
    assert (
        len(name) == 250
        and status == "FINISHED"
        and history == {"loss _x28__x25__x29_": [(1, 1.0)]}
    )
    assert params["dropout _x28__x25__x29_"] == "0.5" and params["bad"] == "\\ud800"
    assert len(params) == 153 + 2
    assert (params["taken"], params["free"]) == ("1", "3") and len(params["long"]) == 6000
    assert len(tags["tag _x28_1_x29_"]) == 8000 and tags["a_x2f_.._x2f_b"] == "c"
    (path,) = tracker.folder.iterdir()
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert line == {"run": run, "what": "params", "values": {"taken": "2"}}
    assert "refuses the params 'taken'" in caplog.text


@pytest.mark.parametrize(
    "response",
    [
        "API request to endpoint /api failed with error code 413 != 200. Response body: ''",
        "INTERNAL_ERROR: Request Entity Too Large",
        "API request to http://h failed with exception ('Connection aborted.', BrokenPipeError())",
    ],
)
def test_a_request_that_is_too_large_is_made_in_halves(tracker, monkeypatch, response):
    from mlflow.exceptions import MlflowException

    client, sizes = tracker.writer.client.client, []
    log_batch = client.log_batch

    def limited(run_id, **batch):
        (items,) = batch.values()
        sizes.append(len(items))
        if len(items) > 30:
            raise MlflowException(response)
        log_batch(run_id, **batch)

    monkeypatch.setattr(client, "log_batch", limited)
    run = tracker.start(NewRun("large", {f"p{i}": "1" for i in range(99)}))
    tracker.writer.client.is_up = False
    for step in range(1, 121):
        tracker.log(run, values(step), step)
    tracker.writer.client.is_up = True
    tracker.finish(run)
    ((status, params, _, history, _),) = held(tracker).values()
    assert status == "FINISHED" and len(params) == 99 and history == points(range(1, 121))
    assert max(sizes) == 200 and tracker.missing is None


def test_one_point_that_is_too_large_is_refused_and_named(tracker, monkeypatch, caplog):
    from mlflow.exceptions import MlflowException

    log_batch = tracker.writer.client.client.log_batch

    def limited(run_id, **batch):
        if any("large" in item.key for items in batch.values() for item in items):
            raise MlflowException("API request failed with error code 413 != 200")
        log_batch(run_id, **batch)

    monkeypatch.setattr(tracker.writer.client.client, "log_batch", limited)
    run = tracker.start(new_run("limited"))
    for step in (1, 2):
        tracker.log(run, {**values(step), "large": 1.0}, step)
    tracker.finish(run)
    assert held(tracker)["limited"][3] == points([1, 2])
    lines = [json.loads(line) for line in Path(tracker.missing).read_text().splitlines()]
    assert [(line["what"], line["values"][0][0::2]) for line in lines] == [
        ("metrics", [step, {"large": 1.0}]) for step in (1, 2)
    ]
    assert "refuses the metrics 'large'" in caplog.text


@pytest.mark.parametrize("files", [FILES, {"a.txt": "a", "b.txt": "b"}], ids=["one", "two"])
def test_a_broken_artifact_store_delays_no_metrics(tracker, monkeypatch, files):
    def log_text(*arguments):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(tracker.writer.client.client, "log_text", log_text)
    run = tracker.start(NewRun("no files", PARAMS, files=files))
    tracker.log(run, values(1), 1)
    tracker.finish(run)
    status, params, _, history, stored = held(tracker)["no files"]
    assert status == "FINISHED" and history == points([1]) and params and stored == []
    (path,) = tracker.folder.iterdir()
    left = [json.loads(line)["what"] for line in path.read_text().splitlines()]
    assert sorted(left) == sorted(files)


def test_there_is_a_pause_between_attempts_to_reach_the_server(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_INTERVAL_S", 1000.0)
    run = tracker.start(new_run("patient"))
    tracker.writer.client.is_up = False
    tracker.next_flush = 0.0
    tracker.log(run, values(1), 1)
    calls = tracker.writer.client.calls
    for step in range(2, 50):
        tracker.log(run, values(step), step)
    tracker.start(new_run("another"))
    assert tracker.writer.client.calls == calls


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "nonsense://x", "http://", "sqlite:////proc/nowhere/x.db"]
)
def test_a_store_that_cannot_be_opened_is_a_configuration_error(uri):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="tracking.uri"):
        open_tracker(uri, "fedsmu")
    assert time.monotonic() - began < 60


class Server:
    """An `mlflow server` process on a free port."""

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
        wait_for(self._responds, "a server that responds")
        return self

    def _responds(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                return True
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


PLAIN = {
    "name": "away",
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 40, "cohort": 5, "eval_every": 2},
    "compute": {"executor": "inline", "cpus_per_actor": 0.5},
}


def written(folder, **changes):
    (folder / "r.yaml").write_text(json.dumps({**PLAIN, **changes}))
    return "r.yaml"


def by_name(uri):
    return client_of(uri), {run.info.run_name: run for run in runs_of(uri)}


@pytest.mark.slow
def test_a_server_is_killed_during_a_run_and_started_again_during_it(tmp_path):
    """Most rounds are trained while it is down, and some before and after."""
    server, brakes = Server(tmp_path).start(), Brake(tmp_path, 4)
    recipe = (written(tmp_path, algorithm={"name": METHOD}), f"tracking.uri={server.uri}")
    try:
        with command(tmp_path, "train", *recipe, "federation.rounds=400", "--json") as process:
            brakes.advance(process, lambda: have_points(server.uri), "points in MLflow")
            server.kill()
            killed, said = time.time(), []

            def is_missed():
                if select.select([process.stderr], [], [], 0)[0]:
                    said.append(os.read(process.stderr.fileno(), 65536).decode())
                return "does not respond" in "".join(said)

            brakes.advance(process, is_missed, "a warning that the server does not respond")
            brakes.move(brakes.limit + 100)
            brakes.wait(process)
            back = time.time()
            server.start()
            brakes.release()
            out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        err = "".join(said) + err
        result = json.loads(out.splitlines()[-1])
        client, runs = by_name(server.uri)
        (run,) = runs.values()
        assert (
            run.info.status == "FINISHED"
            and run.data.tags["model_sha256"] == result["model_sha256"]
        )
        history = client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [m.step for m in history] == list(range(2, 401, 2))
        assert sum(killed < m.timestamp / 1000 < back for m in history) >= 48
        assert err.count("does not respond (") == 1 and "Traceback" not in err
    finally:
        server.kill()


@pytest.mark.slow
def test_a_sweep_starts_and_ends_trials_without_its_server(tmp_path):
    """It is killed in the first trial of three, and started again in the last."""
    server, brakes = Server(tmp_path).start(), Brake(tmp_path, 4)
    tune = {"space": {"algorithm.gamma1": {"grid": [0.01, 0.02, 0.03]}}, "concurrent": 1}
    recipe = (
        written(tmp_path, algorithm={"name": METHOD}, tune=tune),
        f"tracking.uri={server.uri}",
        "federation.rounds=240",
    )
    try:
        with command(tmp_path, "tune", *recipe, "--json") as process:
            brakes.advance(process, lambda: have_points(server.uri), "points in MLflow")
            server.kill()
            brakes.move(2 * 240 + 1)
            brakes.wait(process)
            server.start()
            brakes.release()
            out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        result = json.loads(out.splitlines()[-1])
        client, runs = by_name(server.uri)
        assert len(runs) == 4 and {run.info.status for run in runs.values()} == {"FINISHED"}
        for trial in result["trials"]:
            run = runs[trial["name"]]
            assert run.data.tags["model_sha256"] == trial["model_sha256"]
            assert run.data.tags["mlflow.parentRunId"] == runs["away"].info.run_id
            assert [
                m.step for m in client.get_metric_history(run.info.run_id, "test/accuracy")
            ] == list(range(2, 241, 2))
            assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
        assert not list(tmp_path.rglob("not-in-mlflow*")) and "Traceback" not in err
    finally:
        server.kill()


@pytest.mark.slow
def test_a_server_that_takes_longer_than_the_time_limit_gets_everything(tmp_path):
    server = Server(tmp_path).start()
    try:
        with slow_proxy(server.port, 5.2) as port:
            uri = f"tracking.uri=http://127.0.0.1:{port}"
            with command(tmp_path, "train", written(tmp_path), uri, "--json") as process:
                out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["not_in_mlflow"] is None
        client, runs = by_name(server.uri)
        (run,) = runs.values()
        assert run.info.status == "FINISHED" and len(run.data.params) > 30
        history = client.get_metric_history(run.info.run_id, "test/accuracy")
        assert [m.step for m in history] == list(range(2, 41, 2))
        assert "final/test_accuracy" in run.data.metrics
        assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
        assert not list(tmp_path.rglob("not-in-mlflow*"))
    finally:
        server.kill()


@pytest.mark.slow
def test_a_password_is_written_and_printed_nowhere(tmp_path):
    password, said = "s3cr3t-Pa55", []

    def end_of(folder, module, *arguments):
        with command(folder, module, *arguments, "--json") as process:
            said.extend(process.communicate(timeout=500))
        return process.returncode

    server, work = Server(tmp_path).start(), tmp_path / "work"
    uri = f"tracking.uri=http://me:{password}@127.0.0.1:{server.port}"
    work.mkdir()
    try:
        recipe = written(work, tune={"space": {"local.lr": {"grid": [0.1, 0.2]}}})
        for module in ("train", "tune"):
            assert end_of(work, module, recipe, uri, "checkpoint.every=10") == 0, said
        assert len(runs_of(server.uri)) == 3 + 1
        (folder,) = (path.parent for path in tmp_path.rglob("run_id"))
        assert end_of(work, "train", "--resume", str(folder)) == 2
        assert "password was left out" in said[-1]
        assert end_of(tmp_path, "train", "--resume", str(folder), uri) == 0, said
        assert "a new run" not in said[-1]
    finally:
        server.kill()
    assert "me:***@127.0.0.1" in said[0] and not [text for text in said if password in text]
    secrets = (password.encode(), password.encode().hex().encode())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if any(s in path.read_bytes() for s in secrets)]
