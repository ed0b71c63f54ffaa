"""Models in MLflow: what is logged, once whatever happens, and what a failure costs."""

import json
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from fedsmu_ray.errors import ConfigError, ModelFileError
from fedsmu_ray.tracking.base import NewModel
from fedsmu_ray.tracking.mlflow_models import FILE
from fedsmu_ray.tracking.registry import tracked_model
from tests.helpers.mlflow_runs import held, new_run, points, values

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def new_model(**changes):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    given = {
        "name": "small.fed/avg",
        "module": module,
        "example": np.zeros((1, 2, 3), np.float32),
        "classes": 3,
        "file": b"the model file",
        "sha256": "ab" * 32,
        "dataset": "digits",
        "data_digest": "cd" * 16,
        "metrics": {"final/test_accuracy": 0.25},
        "tags": {"fedsmu.method": "fedavg"},
    }
    return NewModel(**{**given, **changes})


def logged(tracker):
    client = tracker.writer.client.client
    found = client.search_logged_models([tracker.writer.experiment_id])
    return [client.get_logged_model(each.model_id) for each in found]


def finished(tracker, model, name="run"):
    run = tracker.start(new_run(name))
    tracker.log(run, values(1), 1)
    tracker.log_model(run, model)
    tracker.finish(run, metrics={"final/test_accuracy": 0.25})
    return tracker._pending(run).run_id


def test_a_model_is_logged_with_all_that_belongs_to_it(tracker, store, monkeypatch, recwarn):
    model = new_model()
    run_id = finished(tracker, model)
    (found,) = logged(tracker)
    assert found.name == "small_fed_avg" and found.status == "READY"
    assert found.source_run_id == run_id
    assert found.tags == {
        "fedsmu.method": "fedavg",
        "model_sha256": "ab" * 32,
        "fedsmu.data_digest": "cd" * 16,
    }
    (metric,) = found.metrics
    assert (metric.key, metric.value) == ("final/test_accuracy", 0.25)
    assert (metric.dataset_name, metric.dataset_digest) == ("digits", "cd" * 16)
    run = tracker.writer.client.client.get_run(run_id)
    assert [each.model_id for each in run.outputs.model_outputs] == [found.model_id]
    assert held(tracker)["run"][0] == "FINISHED" and tracker.missing is None

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    loaded = mlflow.pytorch.load_model(f"models:/{found.model_id}")
    x = torch.randn(4, 2, 3)
    assert torch.equal(loaded(x), model.module(x))
    info = mlflow.models.get_model_info(f"models:/{found.model_id}")
    assert [(t.type, t.shape) for t in info.signature.inputs.inputs] == [
        (np.dtype("float32"), (-1, 2, 3))
    ]
    assert [t.shape for t in info.signature.outputs.inputs] == [(-1, 3)]
    assert info.saved_input_example_info and info.model_id == found.model_id
    assert not [w for w in recwarn if not issubclass(w.category, DeprecationWarning)]
    assert tracked_model(store, run_id) == b"the model file"


def test_a_model_is_logged_once(tracker):
    run_id = finished(tracker, new_model())
    tracker.log_model(run_id, new_model())  # as after a resume
    tracker.finish(run_id)
    assert len(logged(tracker)) == 1
    tracker.log_model(run_id, new_model(sha256="ef" * 32))  # more rounds after a resume
    tracker.finish(run_id)
    assert len(logged(tracker)) == 2


def test_an_unreachable_store_gets_the_model_later(tracker):
    run = tracker.start(new_run("later"))
    connection = tracker.writer.client
    tracker.log_model(run, new_model())
    connection.is_up = False
    threading.Timer(0.1, lambda: setattr(connection, "is_up", True)).start()
    tracker.finish(run)
    (found,) = logged(tracker)
    assert found.status == "READY" and tracker.missing is None


def test_an_interrupted_attempt_is_completed(tracker, monkeypatch):
    run = tracker.start(new_run("interrupted"))
    client, lost = tracker.writer.client.client, []
    upload = client.log_model_artifacts

    def lose_first(model_id, folder):
        if not lost:
            lost.append(model_id)
            raise ConnectionError("connection refused")
        upload(model_id, folder)

    monkeypatch.setattr(client, "log_model_artifacts", lose_first)
    tracker.log_model(run, new_model())
    tracker.finish(run)
    (found,) = logged(tracker)
    assert found.status == "READY" and found.model_id == lost[0]


class Unpicklable(nn.Linear):
    def __reduce__(self):
        raise TypeError("a lock cannot be pickled")


def test_a_model_that_cannot_be_saved_is_one_warning(tracker, caplog):
    finished(tracker, new_model(module=Unpicklable(6, 3)), "unpicklable")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "is not in MLflow: it cannot be saved (TypeError: a lock cannot be" in warning
    status, _, _, history, _ = held(tracker)["unpicklable"]
    assert status == "FINISHED" and history["train/loss"] == points([1])["train/loss"]
    assert history["final/test_accuracy"] == [(0, 0.25)] and tracker.missing is None


def test_a_model_that_never_arrives_is_named_in_the_file(tracker, caplog, monkeypatch):
    client = tracker.writer.client.client

    def fail(*arguments):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(client, "log_model_artifacts", fail)
    finished(tracker, new_model(), "without")
    status, _, _, history, files = held(tracker)["without"]
    assert status == "FINISHED" and history["final/test_accuracy"] == [(0, 0.25)]
    assert files == ["config.yaml"]
    (line,) = map(json.loads, Path(tracker.missing).read_text().splitlines())
    assert line["what"] == "model" and line["values"]["model_sha256"] == "ab" * 32


def test_a_model_is_registered_on_request(tracker, store, monkeypatch):
    run_id = finished(tracker, new_model(register="the best"))
    tracker.log_model(run_id, new_model(register="the best"))
    tracker.finish(run_id)
    finished(tracker, new_model(register="the best"), "another")
    client = tracker.writer.client.client
    versions = client.search_model_versions("name = 'the best'")
    assert sorted(int(each.version) for each in versions) == [1, 2]
    assert {each.version: each.run_id for each in versions}[1] == run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    loaded = mlflow.pytorch.load_model("models:/the best/2")
    assert loaded(torch.zeros(1, 2, 3)).shape == (1, 3)


def test_the_model_file_of_a_run(tracker, store, tmp_path):
    best = finished(tracker, new_model(), "best")
    parent = tracker.start(new_run("sweep"))
    tracker.finish(parent, tags={"fedsmu.best_run": best})
    assert tracked_model(store, parent) == tracked_model(store, best) == b"the model file"
    (found,) = logged(tracker)
    assert found.artifact_location.endswith("/artifacts") and FILE == "model.safetensors"
    bare = tracker.start(new_run("bare"))
    tracker.finish(bare)
    with pytest.raises(ModelFileError, match=f"run {bare}: it has no model in MLflow"):
        tracked_model(store, bare)
    with pytest.raises(ConfigError, match="run 0{32} in MLflow at .*: .*not found"):
        tracked_model(store, "0" * 32)
    with pytest.raises(ConfigError, match="there is no such database"):
        tracked_model(f"sqlite:///{tmp_path}/none.db", best)
    assert not (tmp_path / "none.db").exists()
