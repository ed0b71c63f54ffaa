"""What the store refuses is left in a file, and neither loses nor delays anything else."""

import json
from pathlib import Path

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking.base import NewRun
from tests.helpers.mlflow_runs import FILES, PARAMS, held, new_run, points, values

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
