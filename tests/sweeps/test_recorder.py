"""The recorder of a sweep: its folder and the tracked runs."""

import csv
import json
import math
import platform

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps.folder import SweepFolder
from fedsmu_ray.sweeps.outcome import results
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.space import TrialSpec

SUMMARY = {
    "name": "experiment",
    "method": "fedsmu",
    "rounds": 4,
    "test_accuracy": 0.5,
    "test_loss": 1.0,
    "train_loss": 1.5,
    "best_test_accuracy": 0.75,
    "best_round": 2,
    "uplink_bytes": 10,
    "downlink_bytes": 20,
    "dropped": 0,
    "model_sha256": "ab",
    "nodes": {"h1": 4, "h2": 2},
    "seconds": 1.5,
}
COMM = {"comm/uplink_bytes": 10.0, "comm/downlink_bytes": 20.0}
METRICS = {"test/accuracy": 0.5, "test/loss": 1.0, **COMM}


class ListTracker:
    """A tracker that records the calls it gets."""

    uri = "list:"
    missing = None

    def __init__(self, gone=()):
        self.calls, self.gone = [], gone

    def start(self, run):
        self.calls.append(("start", run))
        return f"run{len(self.calls)}"

    def resume(self, run_id, run):
        self.calls.append(("resume", run_id, run))
        return f"new {run_id}" if run_id in self.gone else run_id

    def log(self, run_id, metrics, round):
        self.calls.append(("log", run_id, round, metrics))

    def log_file(self, run_id, file):
        self.calls.append(("log_file", run_id, file))

    def finish(self, run_id, status="FINISHED", metrics=None, tags=None):
        self.calls.append(("finish", run_id, status, metrics, tags))

    def publish(self, view):
        self.view = view
        return f"#/{view.parent}"


@pytest.fixture
def config(tmp_path):
    space = {"local.lr": {"grid": [0.1, 0.2, 0.3]}}
    return parse({"federation": {"rounds": 4}, "tune": {"storage": str(tmp_path), "space": space}})


def specs(config):
    return [TrialSpec.of(config, i, {"local.lr": lr}) for i, lr in enumerate((0.1, 0.2, 0.3))]


def open_recorder(config, tmp_path, gone=()):
    return SweepRecorder(config, SweepFolder(tmp_path), ListTracker(gone))


def test_a_sweep_has_a_run_with_a_child_run_per_trial(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    first, second, third = specs(config)
    for spec in (first, second):
        recorder.start(spec)
        recorder.log(spec, 2, METRICS)
    assert recorder.complete(first, SUMMARY, METRICS) == "completed"
    stopped = {**SUMMARY, "rounds": 2, "model_sha256": None, "best_test_accuracy": 0.7}
    assert recorder.complete(second, stopped, {**METRICS, "test/accuracy": 0.6}) == "stopped"
    recorder.fail(third, "ClientError: round 3")  # it failed before it started
    outcome = recorder.close("FINISHED", 3.0)

    (_, parent), (_, child), *_ = recorder.tracker.calls
    assert parent.name == "experiment" and parent.parent is None
    assert parent.tags["fedsmu.sweep"] == "parent" and child.tags["fedsmu.sweep"] == "trial"
    assert child.name == "fedsmu lr=.1 s=0" and child.parent == outcome["parent_run_id"] == "run1"
    assert child.tags["fedsmu.setting"] == "fedsmu lr=0.1"
    assert child.tags["fedsmu.trial"] == "0" and "local.lr" not in parent.params
    assert child.params["local.lr"] == "0.1" and "lr: 0.1" in child.files["config.yaml"]
    finished = {call[1]: call[2:] for call in recorder.tracker.calls if call[0] == "finish"}
    ids = recorder.folder.run_ids
    status, metrics, tags = finished[ids[0]]
    assert status == "FINISHED" and metrics["final/test_accuracy"] == 0.5
    assert tags == {
        "fedsmu.status": "completed",
        "fedsmu.nodes": "h1 4, h2 2",
        "model_sha256": "ab",
    }
    assert finished[ids[1]][2] == {"fedsmu.status": "stopped", "fedsmu.nodes": "h1 4, h2 2"}
    assert finished[ids[2]] == (
        "FAILED",
        None,
        {"fedsmu.status": "failed", "fedsmu.error": "ClientError: round 3"},
    )
    text = finished["run1"][2].pop("mlflow.note.content")
    assert f"| [0](run:{ids[0]}) |" in text and f"[002 lr=0.3](run:{ids[2]})" in text
    assert finished["run1"] == (
        "FINISHED",
        {"best/test_accuracy": 0.7},
        {
            "fedsmu.trials": "2",
            "fedsmu.best_run": ids[1],
        },
    )
    assert outcome["versions"]["python"] == platform.python_version()
    assert [t["index"] for t in outcome["trials"]] == [0, 1] and "event" not in outcome["best"]
    assert outcome["best"]["score"] == 0.6 and outcome["best"]["name"] == "001 lr=0.2"
    assert outcome["failed"] == [
        {
            "index": 2,
            "name": "002 lr=0.3",
            "params": {"local.lr": 0.3},
            "run_id": ids[2],
            "error": "ClientError: round 3",
        }
    ]
    assert outcome["view"] == "#/run1" and recorder.tracker.view.params == ("local.lr",)
    assert outcome["tracking_uri"] == "list:" and outcome["seconds"] == 3.0


def test_the_tables_of_a_sweep_have_its_trials_and_their_rounds(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    first, second, third = specs(config)
    for spec in (first, second, third):
        recorder.start(spec)
        for number in (2, 4):
            recorder.log(spec, number, {**METRICS, "test/accuracy": 0.1 * number})
    recorder.log(first, 2, {**METRICS, "test/accuracy": 0.25})  # it started again
    recorder.complete(first, SUMMARY, METRICS)
    recorder.complete(second, SUMMARY, METRICS)
    outcome = recorder.close("KILLED", 3.0)  # the third has not ended

    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["trials"] == outcome["trials"] and saved["settings"] == outcome["settings"]
    assert [row["name"] for row in outcome["settings"]] == ["fedsmu lr=0.1", "fedsmu lr=0.2"]
    assert outcome["findings"][0]["accuracy"] == 0.4
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["local.lr"] for row in rows] == ["0.1", "0.2"]
    assert [row["uplink_bytes_to_0.4"] for row in rows] == ["10", "10"]
    assert [row["total_bytes_to_0.4"] for row in rows] == ["30", "30"]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["index"], row["round"], row["test/accuracy"]) for row in rows] == [
        ("0", "2", "0.25"),
        ("0", "4", "0.4"),
        ("1", "2", "0.2"),
        ("1", "4", "0.4"),
    ]
    assert open_recorder(config, tmp_path).close("FINISHED", 1.0)["findings"] == outcome["findings"]


def test_the_table_of_clients_is_kept_with_the_run_of_its_trial(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    spec, other, _ = specs(config)
    for each, table in ((spec, "round,client\n4,0\n"), (other, "")):
        recorder.start(each)
        recorder.keep_clients(each, table)
    assert (tmp_path / "clients-0.csv").read_text() == "round,client\n4,0\n"
    assert [path.name for path in tmp_path.glob("clients-*")] == ["clients-0.csv"]
    (call,) = [call for call in recorder.tracker.calls if call[0] == "log_file"]
    assert call[1] == recorder.folder.run_ids[0] and call[2].name == "clients.csv"


def test_a_resumed_sweep_continues_its_runs_and_keeps_its_results(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    first, second, third = specs(config)
    recorder.start(first)
    recorder.complete(first, SUMMARY, METRICS)
    recorder.start(second)
    outcome = recorder.close("KILLED", 1.0)
    run_id = recorder.folder.run_ids[1]
    assert ("finish", run_id, "KILLED", None, None) in recorder.tracker.calls
    assert len(outcome["trials"]) == 1

    resumed = open_recorder(config, tmp_path)
    resumed.start(second)
    assert [call[:2] for call in resumed.tracker.calls] == [("resume", "run1"), ("resume", run_id)]
    resumed.start(third)
    resumed.start(third)  # restarted after the loss of its process
    assert [call[0] for call in resumed.tracker.calls[2:]] == ["start", "resume"]
    resumed.complete(second, SUMMARY, METRICS)
    resumed.complete(third, SUMMARY, METRICS)
    assert [t["index"] for t in resumed.close("FINISHED", 2.0)["trials"]] == [0, 1, 2]


@pytest.mark.parametrize(
    "metric, losses, best",
    [
        ("test/loss", [math.nan, 0.7, 0.4], 2),
        ("test/loss", [0.7, math.inf, -math.inf], 0),
        ("train/loss", [0.3, 0.2, math.nan], 1),
    ],
)
def test_the_best_trial_has_the_smallest_loss_and_is_never_one_that_diverged(
    tmp_path, metric, losses, best
):
    space = {"local.lr": {"grid": [0.1, 0.2, 0.3]}}
    plain = {"federation": {"rounds": 4}, "tune": {"space": space, "metric": metric}}
    config = parse(plain)
    recorder = open_recorder(config, tmp_path)
    statuses = []
    for spec, loss in zip(specs(config), losses, strict=True):
        recorder.start(spec)
        summary = {**SUMMARY, "test_loss": loss}
        statuses.append(recorder.complete(spec, summary, {**METRICS, metric: loss}))
    assert [s == "diverged" for s in statuses] == [not math.isfinite(loss) for loss in losses]
    outcome = recorder.close("FINISHED", 1.0)
    assert outcome["best"]["index"] == best and outcome["mode"] == "min"
    # A sweep that is resumed reads the same from the file, which is valid JSON.
    assert open_recorder(config, tmp_path).close("FINISHED", 1.0)["trials"] == outcome["trials"]
    text = (tmp_path / "trials.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_a_sweep_in_which_all_trials_diverged_has_no_best_one(tmp_path):
    tune = {"space": {"local.lr": {"grid": [0.1]}}, "metric": "test/loss"}
    config = parse({"federation": {"rounds": 4}, "tune": tune})
    recorder = open_recorder(config, tmp_path)
    spec = TrialSpec.of(config, 0, {"local.lr": 0.1})
    recorder.start(spec)
    recorder.complete(spec, SUMMARY, {"test/loss": math.nan})
    outcome = recorder.close("FINISHED", 1.0)
    assert outcome["best"] is None and outcome["trials"][0]["score"] is None
    *_, status, metrics, tags = recorder.tracker.calls[-1]
    assert (status, metrics) == ("FINISHED", {}) and "fedsmu.best_run" not in tags


def test_runs_that_the_tracker_had_lost_are_remembered_by_their_new_ids(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    first, *_ = specs(config)
    recorder.start(first)
    run_id = recorder.folder.run_ids[0]
    resumed = open_recorder(config, tmp_path, gone=("run1", run_id))
    resumed.start(first)
    resumed.log(first, 2, METRICS)
    assert resumed.tracker.calls[-1] == ("log", f"new {run_id}", 2, METRICS)
    (_, _, parent), (_, _, child), _ = resumed.tracker.calls
    assert parent.tags["fedsmu.sweep"] == "parent" and child.parent == "new run1"
    again = SweepFolder(tmp_path)
    assert again.parent_run == "new run1" and again.run_ids == {0: f"new {run_id}"}
    assert list(again.unfinished) == [0]


def test_secrets_in_the_error_of_a_trial_are_cut_out(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    recorder.fail(specs(config)[0], "OSError: http://me:secret@host is away")
    assert recorder.tracker.calls[-1][4]["fedsmu.error"] == "OSError: http://me:***@host is away"
    assert "secret" not in (tmp_path / "trials.jsonl").read_text()


def test_runs_have_the_digest_of_the_data_they_share(config, tmp_path):
    folder = SweepFolder(tmp_path)
    folder.data_loaded("abc")
    recorder = SweepRecorder(config, folder, ListTracker())
    recorder.start(TrialSpec.of(config, 0, {"local.lr": 0.1}))
    recorder.start(TrialSpec.of(config, 1, {"data.dataset": "synthetic"}))
    runs = [run for name, run, *_ in recorder.tracker.calls if name == "start"]
    assert [run.tags.get("fedsmu.data_digest") for run in runs] == ["abc", "abc", None]


def test_a_trial_whose_training_diverged_is_not_repeated_as_a_failed_one_is(config, tmp_path):
    recorder = open_recorder(config, tmp_path)
    diverged, failed, _ = specs(config)
    for spec in (diverged, failed):
        recorder.start(spec)
    assert recorder.fail(diverged, "LocalDivergenceError: round 1", diverged=True) == "diverged"
    assert recorder.fail(failed, "ClientError: round 1") == "failed"
    outcome = recorder.close("FINISHED", 1.0)
    assert outcome["trials"] == [] and outcome["best"] is None
    assert [row["name"] for row in outcome["diverged"]] == ["000 lr=0.1"]
    assert [row["name"] for row in outcome["failed"]] == ["001 lr=0.2"]
    again = SweepFolder(tmp_path)
    assert again.unfinished == {1: {"local.lr": 0.2}} and list(again.ended) == [0]
    assert again.ended[0]["score"] is None


def test_with_validation_samples_only_what_was_chosen_is_tested(tmp_path):
    """Until the sweep has ended, nothing that it reports has results on the test set."""
    settings = {"local.lr": {"grid": [0.1, 0.2]}, "algorithm.name": {"grid": ["fedsmu", "fedavg"]}}
    tune = {"storage": str(tmp_path), "space": settings}
    config = parse({"federation": {"rounds": 4}, "data": {"validation": 0.1}, "tune": tune})
    recorder = open_recorder(config, tmp_path)
    scores = [
        ("fedsmu", 0.1, 0.8),
        ("fedsmu", 0.2, 0.9),
        ("fedavg", 0.1, 0.7),
        ("fedavg", 0.2, 0.6),
    ]
    for index, (method, lr, accuracy) in enumerate(scores):
        spec = TrialSpec.of(config, index, {"local.lr": lr, "algorithm.name": method})
        recorder.start(spec)
        early = {**COMM, "val/accuracy": 0.5, "val/loss": 1.0}
        late = {**COMM, "val/accuracy": accuracy, "val/loss": 1.0}
        late |= {"test/accuracy": 1 - accuracy, "test/loss": 2.0}
        recorder.log(spec, 2, early)
        recorder.log(spec, 4, late)
        summary = {**SUMMARY, "method": method, "test_accuracy": 1 - accuracy, "test_loss": 2.0}
        summary |= {"val_accuracy": accuracy, "val_loss": 1.0}
        summary |= {"best_val_accuracy": accuracy, "best_test_accuracy": None}
        assert recorder.complete(spec, summary, late) == "completed"
    calls = recorder.tracker.calls
    assert not [m for call in calls if call[0] == "log" for m in call[3] if m.startswith("test/")]
    ends = [call[3] for call in calls if call[0] == "finish"]
    assert all("final/val_accuracy" in end and "final/test_accuracy" not in end for end in ends)

    interrupted = results(config.tune, recorder.folder.ended, True, is_final=False)
    assert not [row for row in interrupted["settings"] if row["test_accuracy"]]
    outcome = recorder.close("FINISHED", 3.0)
    assert outcome["best"]["index"] == 1 and outcome["metric"] == "val/accuracy"
    tested = {row["name"]: row["test_accuracy"] for row in outcome["settings"]}
    assert {name: found and found["mean"] for name, found in tested.items()} == {
        "fedsmu lr=0.2": pytest.approx(0.1),
        "fedsmu lr=0.1": None,
        "fedavg lr=0.1": pytest.approx(0.3),
        "fedavg lr=0.2": None,
    }
    assert [trial["test_accuracy"] is not None for trial in outcome["trials"]] == [
        False,
        True,
        True,
        False,
    ]
    assert "tested" not in json.dumps(outcome)
    end = next(call for call in calls if call[:2] == ("finish", outcome["parent_run_id"]))
    assert end[3] == {"best/val_accuracy": 0.9, "final/test_accuracy": pytest.approx(0.1)}
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["test_accuracy"]) for row in rows] == [False, True, True, False]
    assert recorder.tracker.view.accuracy == "val/accuracy"
