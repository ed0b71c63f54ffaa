"""Runs from their configuration to their result: tracking, output, and how they end."""

import json
import re
import socket

import numpy as np
import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import CheckpointError, ClientError, ConfigError
from fedsmu_ray.experiment import run as module
from fedsmu_ray.experiment.provenance import provenance
from fedsmu_ray.experiment.run import Result, run
from fedsmu_ray.experiment.tracking import new_run
from fedsmu_ray.federation.records import Record
from fedsmu_ray.numerics import parameters
from fedsmu_ray.tracking.base import NoTracker
from fedsmu_ray.tracking.metrics import final_metrics, tracked

PLAIN = {
    "name": "small",
    "data": {"clients": 20},
    "model": {"hidden": [24]},
    "local": {"epochs": 1, "batch_size": 20},
    "federation": {"rounds": 5, "cohort": 5, "eval_every": 2},
    "tracking": {"uri": None},
    "compute": {"executor": "inline", "clients_per_task": 2},
}


def config_of(**changes):
    return parse({**PLAIN, **changes})


class Recording(NoTracker):
    """A tracker that records the calls it gets."""

    uri = "recording:"

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at
        self.resumes_as = None  # the id of a run that is created in place of the resumed one

    def start(self, run):
        self.calls.append(("start", run))
        return "the-id"

    def resume(self, run_id, run):
        self.calls.append(("resume", run_id, run))
        return self.resumes_as or run_id

    def log(self, run_id, metrics, round):
        self.calls.append(("log", run_id, metrics, round))
        if round == self.fail_at:
            raise KeyboardInterrupt

    def finish(self, run_id, status="FINISHED", metrics=None, tags=None):
        self.calls.append(("finish", run_id, status, metrics, tags))


@pytest.fixture
def recording(monkeypatch):
    tracker = Recording()
    monkeypatch.setattr(module, "open_tracker", lambda *arguments: tracker)
    return tracker


def test_a_run_and_its_result():
    result = run(config_of())
    assert isinstance(result, Result) and [r.round for r in result.history] == [1, 2, 3, 4, 5]
    assert all(isinstance(record, Record) for record in result.history)
    assert result.summary["rounds"] == 5 and result.summary["run_id"] == ""
    assert result.params.dtype == np.float32 and result.params.shape == (result.summary["dim"],)
    x = parameters.flatten(result.model())
    assert np.array_equal(x.numpy(), result.params)
    assert parameters.sha256(x) == result.summary["model_sha256"]


def test_a_notebook_shows_the_evaluated_rounds_and_the_frame_has_all():
    result = run(config_of())
    frame = result.frame()
    assert list(frame.index) == [record.round for record in result.history]
    assert frame["train_loss"].tolist() == [record.train_loss for record in result.history]
    evaluated = [record.round for record in result.history if record.accuracy is not None]
    assert 0 < len(evaluated) < len(frame)
    page = result._repr_html_()
    assert [int(n) for n in re.findall(r"<th>(\d+)</th>", page)] == evaluated
    assert "val_accuracy" not in page and "<p>test accuracy " in page
    assert repr(result).startswith("Result(test accuracy ") and len(repr(result)) < 300


def test_a_run_is_tracked(recording):
    config = config_of()
    result = run(config)
    start, *logs, finish = recording.calls
    digest = result.problem.dataset.digest()
    tags = {**provenance(config.compute), "fedsmu.data_digest": digest}
    assert start == ("start", new_run("small", config, tags))
    evaluated = [record for record in result.history if record.test_accuracy is not None]
    assert [record.round for record in evaluated] == [2, 4, 5]
    assert logs == [("log", "the-id", tracked(r), r.round) for r in evaluated]
    sha256 = result.summary["model_sha256"]
    final = final_metrics(result.summary)
    tags = {"model_sha256": sha256, "fedsmu.nodes": f"{socket.gethostname()} 25"}
    assert finish == ("finish", "the-id", "FINISHED", final, tags)
    assert result.summary["run_id"] == "the-id"


def test_where_the_tracker_is_opened(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(module, "open_tracker", lambda *a: opened.append(a) or NoTracker())
    tracking = {"uri": "sqlite:///x.db", "experiment": "e"}
    run(config_of(tracking=tracking, checkpoint={"folder": str(tmp_path)}))
    run(config_of(tracking=tracking, checkpoint={"folder": str(tmp_path), "every": 2}))
    (folder,) = tmp_path.iterdir()
    assert [place for _, place in opened] == [tmp_path, folder]
    assert {config.tracking.uri for config, _ in opened} == {"sqlite:///x.db"}


def test_a_run_that_is_refused_leaves_no_folder(recording, tmp_path, monkeypatch):
    def refuse(run):
        raise ConfigError(["refused"])

    monkeypatch.setattr(recording, "start", refuse)
    config = config_of(checkpoint={"every": 1, "folder": str(tmp_path)})
    with pytest.raises(ConfigError, match="refused"):
        run(config)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no run to resume"):
        run(config, resume="")


def test_a_run_whose_folder_cannot_be_written_fails(recording, tmp_path, monkeypatch):
    def full(folder, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run(config_of(checkpoint={"every": 1, "folder": str(tmp_path)}))
    assert recording.calls[-1] == ("finish", "the-id", "FAILED", None, None)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_killed_and_resumed(recording, tmp_path, capsys):
    config = config_of(checkpoint={"every": 1, "folder": str(tmp_path)})
    undisturbed = run(config_of()).summary
    recording.calls, recording.fail_at = [], 4
    with pytest.raises(KeyboardInterrupt):
        run(config, display=True)
    (folder,) = tmp_path.iterdir()
    command = f"to resume from the last checkpoint: python -m fedsmu_ray.train --resume {folder}"
    assert command in capsys.readouterr().err
    assert recording.calls[-1] == ("finish", "the-id", "KILLED", None, None)
    assert {"config.yaml", "run_id", "checkpoint.json"} <= {p.name for p in folder.iterdir()}
    assert (folder / "run_id").read_text() == "the-id"
    begun = recording.calls[0][1]
    recording.calls, recording.fail_at = [], None
    result = run(config, resume=folder)
    assert (
        recording.calls[0] == ("resume", "the-id", begun) and recording.calls[-1][2] == "FINISHED"
    )
    # A resumed run sends all rounds again; trackers ignore those they have.
    assert [call[3] for call in recording.calls[1:-1]] == [2, 4, 5]
    varying = ("seconds", "run_id", "nodes")  # which has what was trained after the resumption
    assert {k: v for k, v in result.summary.items() if k not in varying} == {
        k: v for k, v in undisturbed.items() if k not in varying
    }


def test_a_failed_run_is_tracked_as_failed(recording):
    with pytest.raises(ClientError, match="diverged"):
        run(config_of(local={"lr": 1e30, "clip_norm": None}))
    assert recording.calls[-1] == ("finish", "the-id", "FAILED", None, None)


def test_a_refused_resume_leaves_the_tracked_run_alone(recording, tmp_path):
    config = config_of(checkpoint={"every": 1, "folder": str(tmp_path)})
    run(config)
    (folder,) = tmp_path.iterdir()
    (folder / "checkpoint.json").write_text("nonsense")
    recording.calls = []
    with pytest.raises(CheckpointError, match="not a checkpoint manifest"):
        run(config, resume=folder)
    assert recording.calls == []


def test_the_folder_remembers_the_run_that_replaces_a_lost_one(recording, tmp_path, caplog):
    config = config_of(checkpoint={"every": 1, "folder": str(tmp_path)})
    run(config)
    (folder,) = tmp_path.iterdir()
    recording.resumes_as = "new-id"
    assert run(config, resume=folder).summary["run_id"] == "new-id"
    assert (folder / "run_id").read_text() == "new-id" and recording.calls[-1][1] == "new-id"
    assert [call[3] for call in recording.calls if call[:2] == ("log", "new-id")] == [2, 4, 5]
    for damaged in (b"", b"\xff", b"two words'"):
        (folder / "run_id").write_bytes(damaged)
        assert run(config, resume=folder).summary["run_id"] == "the-id"
        assert "names no run in MLflow" in caplog.records[-1].getMessage()
        assert (folder / "run_id").read_text() == "the-id"


def test_a_tracked_run_may_go_on_without_tracking_and_with_it_again(recording, tmp_path, caplog):
    config = config_of(checkpoint={"every": 1, "folder": str(tmp_path)})
    run(config)
    (folder,) = tmp_path.iterdir()
    recording.uri, recording.calls = None, []
    assert run(config, resume=folder).summary["run_id"] == ""
    assert "tracking is off: run the-id in MLflow does not get the rest" in caplog.text
    recording.uri = "recording:"
    assert run(config, resume=folder).summary["run_id"] == "the-id"


def test_a_run_says_that_it_begins_before_its_data_is_loaded(capsys):
    """Loading may take minutes, and so may the first round."""
    config = config_of(data={"dataset": "mnist", "root": "/nowhere"})
    for display, line in ((True, "small: loading mnist\n"), (False, "")):
        with pytest.raises(ConfigError):
            run(config, display=display)
        assert capsys.readouterr().err == line


def test_a_folder_that_is_not_of_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="not the folder of a run"):
        run(config_of(), resume=tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database layer
def test_a_resumed_run_has_every_point_once_in_mlflow(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    changes = {
        "tracking": {"uri": uri, "experiment": "e"},
        "checkpoint": {"every": 1, "folder": str(tmp_path / "runs")},
    }
    config = config_of(**changes)
    step, steps = module.RunProgress.update, []

    def interrupt(self, record):
        steps.append(record.round)
        if len(steps) == 4:
            raise KeyboardInterrupt
        step(self, record)

    monkeypatch.setattr(module.RunProgress, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    (folder,) = (tmp_path / "runs").iterdir()
    client = MlflowClient(uri)
    run_id = (folder / "run_id").read_text()
    assert client.get_run(run_id).info.status == "KILLED"
    result = run(config, resume=folder)
    assert result.summary["run_id"] == run_id
    stored = client.get_run(run_id)
    assert stored.info.status == "FINISHED" and stored.info.run_name == "small"
    assert stored.data.params["federation.rounds"] == "5"
    assert stored.data.tags["model_sha256"] == result.summary["model_sha256"]
    assert stored.data.tags["fedsmu.method"] == "fedsmu"
    for name in ("test/accuracy", "train/loss", "comm/uplink_bytes"):
        assert [m.step for m in client.get_metric_history(run_id, name)] == [2, 4, 5]
    assert [f.path for f in client.list_artifacts(run_id)] == ["config.yaml"]


def test_a_profiled_run_has_a_trace_and_the_same_bits(tmp_path):
    plain = run(config_of())
    profiled = run(config_of(), profile=tmp_path / "new" / "a.json")
    assert plain.profile is None and plain.trace is None
    assert plain.summary["model_sha256"] == profiled.summary["model_sha256"]
    assert profiled.trace == tmp_path / "new" / "a.json"
    assert profiled.trace.read_text() == profiled.profile.trace()
    assert [span.details["round"] for span in profiled.profile.rounds()] == [2, 3, 4, 5]


def test_a_profiled_run_that_is_interrupted_leaves_its_trace(recording, tmp_path):
    recording.fail_at = 4
    with pytest.raises(KeyboardInterrupt):
        run(config_of(), profile=tmp_path)
    (trace,) = tmp_path.glob("profile-small-*.json")
    events = json.loads(trace.read_text())["traceEvents"]
    assert [e["args"]["round"] for e in events if e["name"] == "round"] == [1, 2, 3, 4, 5]


def test_a_trace_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "a.json").mkdir()
    assert run(config_of(), profile=tmp_path / "a.json").profile
    assert "the trace cannot be written" in caplog.text


def test_a_run_is_tracked_as_csv_without_mlflow_and_resumed_there(tmp_path):
    tracking = {"uri": None, "also": ["csv"], "folder": str(tmp_path / "logs")}
    config = config_of(tracking=tracking, checkpoint={"every": 2, "folder": str(tmp_path / "runs")})
    first = run(config).summary
    (folder,) = (tmp_path / "runs").iterdir()
    resumed = run(config, resume=folder).summary
    assert resumed["run_id"] == first["run_id"] == (folder / "run_id").read_text() != ""
    assert resumed["also_tracked"] == {"csv": f"{tmp_path}/logs/csv"}
    assert resumed["tracking_uri"] is None
    (rows,) = (tmp_path / "logs").rglob("metrics.csv")
    assert [line.split(",")[0] for line in rows.read_text().splitlines()] == [
        "round",
        "2",
        "4",
        "5",
    ]
    about = json.loads(rows.with_name("run.json").read_text())
    assert about["status"] == "FINISHED" and about["id"] == first["run_id"]
    assert about["metrics"]["final/test_accuracy"] == first["test_accuracy"]
    assert about["tags"]["model_sha256"] == first["model_sha256"]


def test_a_run_that_stops_early_says_so_everywhere(recording, tmp_path, capsys):
    """And resumed once more it is complete: the same summary, and no further round."""
    stop = {"metric": "test/loss", "target": 100.0, "min_rounds": 3}
    federation = {**PLAIN["federation"], "stop": stop}
    checkpoint = {"every": 1, "folder": str(tmp_path)}
    config = config_of(federation=federation, checkpoint=checkpoint)
    result = run(config, display=True)
    assert "the run stopped after round 4 of 5: test/loss = " in capsys.readouterr().err
    why = result.summary["stopped"]
    assert result.summary["rounds"] == 4
    assert why.endswith(" reaches federation.stop.target = 100")
    assert recording.calls[-1][-1]["fedsmu.stopped"] == why
    assert "after 4 rounds, where it was stopped (best " in repr(result)
    plain = {**PLAIN, "federation": {**PLAIN["federation"], "rounds": 4}}
    assert run(parse(plain)).summary["model_sha256"] == result.summary["model_sha256"]

    again = run(config, resume="", display=True)
    assert "complete before, stopped after round 4 of 5" in capsys.readouterr().err
    same = ("rounds", "stopped", "model_sha256", "test_loss", "uplink_bytes")
    assert [again.summary[key] for key in same] == [result.summary[key] for key in same]
