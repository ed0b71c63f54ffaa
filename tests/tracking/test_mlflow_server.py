"""Commands that write to a real MLflow server: killed, slow, or behind a password."""

import json
import os
import select
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.helpers.brake import METHOD, Brake
from tests.helpers.commands import command
from tests.helpers.mlflow_server import Server
from tests.helpers.slow_proxy import slow_proxy
from tests.helpers.tracked import client_of, have_points, runs_of

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

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
        trials = {run.data.tags.get("fedsmu.trial"): run for run in runs.values()}
        for trial in result["trials"]:
            run = trials[str(trial["index"])]
            (used,) = run.inputs.dataset_inputs
            assert used.dataset.name == "digits"
            assert f"/runs/{run.info.run_id})" in runs["away"].data.tags["mlflow.note.content"]
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
            # Without the model, whose dozens of requests would take minutes.
            slow = f"tracking.uri=http://127.0.0.1:{port}", "tracking.models=none"
            with command(tmp_path, "train", written(tmp_path), *slow, "--json") as process:
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
def test_a_password_is_written_and_printed_nowhere(tmp_path, monkeypatch):
    """Not in MLflow's files, those of runs and sweeps, the output, or what Ray writes."""
    password, said = "s3cr3t-Pa55", []
    ray = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # short, for Ray's sockets
    monkeypatch.setenv("RAY_TMPDIR", ray)

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
    files_of_ray = [path for path in Path(ray).rglob("*") if path.is_file()]
    assert len(files_of_ray) > 10
    found = [p for p in files + files_of_ray if any(s in p.read_bytes() for s in secrets)]
    shutil.rmtree(ray)
    assert not found
