"""Opening the store of runs: by several processes at once, in any folder, and what is refused."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking import mlflow_store as module
from fedsmu_ray.tracking.base import NewRun
from fedsmu_ray.tracking.mlflow_store import first_line, is_refusal, open_store
from fedsmu_ray.tracking.registry import open_tracker

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty store, which takes MLflow seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    path.touch()  # another program was about to fill it
    path.with_name("mlflow.db.part").write_text("half a database")
    open_store(f"sqlite:///{path}", "first")
    return path


@pytest.mark.parametrize(
    "name", ["was?", "a#b", "100%25", "two words", "größe", "x[y](z)&;", "a\\b", "it's"]
)
def test_the_database_is_in_the_working_folder_whatever_its_name(
    database, tmp_path, monkeypatch, name
):
    if set(name) & set("%?") and not module._paths_may_be_quoted():
        pytest.skip("needs SQLAlchemy 2.1")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(database.read_bytes())
    monkeypatch.chdir(folder)
    tracker = open_tracker("sqlite:///mlflow.db", "here", folder)
    run = tracker.start(NewRun("n", {"a": "1"}, files={"config.yaml": "x: 1"}))
    tracker.finish(run)
    monkeypatch.chdir("/")
    stored = open_tracker(tracker.uri, "here").writer.client
    assert stored.get_run(run).info.status == "FINISHED" and tracker.missing is None
    assert [file.path for file in stored.list_artifacts(run)] == ["config.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlruns"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "mlruns").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["was?", "100%"])
def test_a_path_that_an_older_sqlalchemy_cannot_open_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(module, "_paths_may_be_quoted", lambda: False)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(ConfigError, match="needs SQLAlchemy 2.1; update"):
        open_store("sqlite:///mlflow.db", "e")
    assert list(Path.cwd().iterdir()) == []


def test_a_database_that_was_not_finished_is_made_again_for_its_owner_only(database):
    assert database.stat().st_mode & 0o777 == 0o600
    made = sorted(path.name for path in database.parent.iterdir())
    assert made == ["mlflow.db", "mlflow.db.lock", "mlruns"]


@pytest.mark.slow
def test_processes_that_start_at_once_share_a_new_store(tmp_path):
    code = (
        "from fedsmu_ray.tracking.registry import open_tracker\n"
        "from fedsmu_ray.tracking.base import NewRun\n"
        "tracker = open_tracker('sqlite:///sub/mlflow.db', 'shared')\n"
        "run = tracker.start(NewRun('n', {}))\n"
        "tracker.finish(run)\n"
        "print(tracker.writer.experiment_id, tracker.missing)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [out for out, _ in results] == ["1 None\n"] * 4, results
    client, experiment_id, _ = open_store(f"sqlite:///{tmp_path}/sub/mlflow.db", "shared")
    runs = client.search_runs([experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


def test_an_experiment_that_another_process_creates_meanwhile_is_used(database, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{database}"
    find, created = MlflowClient.get_experiment_by_name, []

    def find_nothing_first(self, name):
        if created:
            return find(self, name)
        created.append(MlflowClient(uri).create_experiment(name))
        return None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", find_nothing_first)
    _, experiment_id, _ = open_store(uri, "raced")
    assert [experiment_id] == created


def test_tables_that_another_process_creates_meanwhile_are_awaited(database, monkeypatch):
    import mlflow

    monkeypatch.setattr(module, "RETRY_INTERVAL_S", 0.0)
    real, failures = mlflow.MlflowClient, ["table experiments already exists", "found version None"]

    def client(uri):
        if failures:
            raise RuntimeError(failures.pop())
        return real(uri)

    monkeypatch.setattr(mlflow, "MlflowClient", client)
    assert open_store(f"sqlite:///{database}", "first")[1] == "1" and not failures


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(database):
    client, experiment_id, uri = open_store(f"sqlite:///{database}", "deleted")
    client.delete_experiment(experiment_id)
    with pytest.raises(ConfigError) as error:
        open_store(uri, "deleted")
    command = (
        f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {experiment_id}"
    )
    assert "tracking.experiment = 'deleted': it was deleted in MLflow" in str(error.value)
    assert command in str(error.value)
    client.restore_experiment(experiment_id)
    assert open_store(uri, "deleted")[1] == experiment_id


@pytest.mark.parametrize("name, problem", [("", "Invalid experiment name"), ("x" * 501, "length")])
def test_an_experiment_that_mlflow_does_not_accept(database, name, problem):
    with pytest.raises(ConfigError, match=f"tracking.experiment = '{name}.*{problem}"):
        open_store(f"sqlite:///{database}", name)


def test_what_cannot_be_a_database(tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("no database" * 1000)
    (tmp_path / "file").touch()
    for uri, problem in [
        (f"sqlite:///{tmp_path}", "is a folder"),
        (f"sqlite:///{tmp_path}/text.db", "not a database"),
        (f"sqlite:///{tmp_path}/file/x.db", "Not a directory|File exists"),
        (f"sqlite:///{tmp_path}/was?/x.db", "%3F"),
        ("file:///a", "does not write to folders any more; write sqlite:///FILE"),
        ("mlruns", "does not write to folders any more"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:x.db", "no URL of a database; write sqlite:///FILE"),
        ("localhost:5000", "no kind of store that MLflow knows.*http://HOST:PORT"),
        ("http://me:secret@127.0.0.1:9", "me:\\*\\*\\*@127.*refused"),
        (
            "postgresql://me:secret@h/db?password=secret",
            "tracking.uri = 'postgresql://me:\\*\\*\\*@h",
        ),
        ("http://me:***@127.0.0.1:9", "password was left out .* MLFLOW_TRACKING_PASSWORD"),
        ("nonsense://me:secret@x", "me:\\*\\*\\*@x"),
    ]:
        with pytest.raises(ConfigError, match=problem) as error:
            open_store(uri, "e")
        assert "secret" not in str(error.value) and "tracking.uri = " in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text.db"]
    (tmp_path / "kept.db").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match="read-only"):
        open_store(f"sqlite:///{tmp_path}/kept.db", "e")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "nonsense://x", "http://", "sqlite:////proc/nowhere/x.db"]
)
def test_a_store_that_cannot_be_opened_is_a_configuration_error(uri):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="tracking.uri"):
        open_tracker(uri, "fedsmu")
    assert time.monotonic() - began < 60


def test_a_database_of_another_version_is_refused_with_the_command_that_upgrades_it(
    database, tmp_path
):
    path = tmp_path / "two words.db"
    path.write_bytes(database.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'bd07f7e963c5'")
    with pytest.raises(ConfigError) as error:
        open_store(f"sqlite:///{path}", "e")
    assert f"mlflow db upgrade 'sqlite:///{path}'" in str(error.value)
    assert "found version bd07f7e963c5" in str(error.value)


def test_a_password_that_was_left_out_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with pytest.raises(ConfigError, match="tracking.uri = 'http://127.0.0.1:9/x'.*refused"):
        open_store("http://me:***@127.0.0.1:9/x", "e")


def test_a_store_of_the_environment_is_named_and_keeps_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://me:secret@x")
    with pytest.raises(ConfigError, match="x' \\(of \\$MLFLOW_TRACKING_URI\\): cannot") as error:
        open_store("nonsense://me:secret@x", "e")
    assert "secret" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ConfigError, match="refused"):  # it was asked for, with the password
        open_store("http://me:***@127.0.0.1:9", "e")


@pytest.mark.parametrize(
    "error, is_permanent",
    [
        ({"error_code": "RESOURCE_DOES_NOT_EXIST"}, True),
        ({"error_code": "INVALID_STATE"}, True),
        ({"error_code": "INVALID_PARAMETER_VALUE"}, True),
        ({"error_code": "TEMPORARILY_UNAVAILABLE"}, False),
        ({"error_code": "REQUEST_LIMIT_EXCEEDED"}, False),
        ({"error_code": "ABORTED"}, False),
        ({"error_code": "PERMISSION_DENIED"}, False),  # an error only before training
        ("API request failed with error code 422 != 200", True),
        ("API request failed with error code 413 != 200", True),
        ("API request failed with error code 502 != 200", False),
        ("API request failed with exception: connection refused", False),
    ],
)
def test_permanent_refusals_and_passing_failures(error, is_permanent):
    from mlflow.exceptions import MlflowException, RestException

    made = RestException(error) if isinstance(error, dict) else MlflowException(error)
    assert is_refusal(made) is is_permanent and not is_refusal(ConnectionError("refused"))


def test_the_message_of_an_error_has_no_secrets():
    error = RuntimeError("http://u:my pass@h is away\nsecond line")
    assert first_line(error, "http://u:my pass@h") == "http://u:***@h is away"
    assert first_line(RuntimeError(), "http://h") == "RuntimeError"
    error = RuntimeError("(raised as a result of Query-invoked autoflush; x)\n(sqlite3) locked\n")
    assert first_line(error, "sqlite:///x") == "(sqlite3) locked"


def test_without_mlflow_the_cure_is_told(tmp_path, monkeypatch):
    """It is a dependency, so that it is missing has to be feigned."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="mlflow is not installed; .*tracking.uri=null"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", "first")
