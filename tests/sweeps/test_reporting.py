"""The report of a sweep: at its end, from its folder, and from its runs in MLflow."""

import json
import sys
import warnings
from html import escape

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.reports import tables
from fedsmu_ray.sweeps import reporting
from fedsmu_ray.sweeps.folder import SweepFolder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.space import TrialSpec, list_params
from fedsmu_ray.tracking.registry import open_tracker, tracked_experiment, tracked_sweep

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own
PLAIN = {
    "name": "small",
    "federation": {"rounds": 4, "eval_every": 2},
    "tune": {
        "seeds": 3,
        "space": {
            "algorithm.gamma1": {"grid": [0.01, 0.03]},
            "algorithm.beta1, algorithm.beta2": {"grid": [0.5, 0.9]},
        },
        "baselines": [{"algorithm.name": "fedavg"}],
    },
}


def summary(method, accuracy, uploaded):
    return {
        "name": "small",
        "method": method,
        "rounds": 4,
        "test_accuracy": accuracy,
        "test_loss": 1.0,
        "train_loss": 1.5,
        "best_test_accuracy": accuracy,
        "best_round": 4,
        "uplink_bytes": uploaded,
        "downlink_bytes": 4000,
        "dropped": 0,
        "model_sha256": "ab" * 32,
        "nodes": {"h1": 4},
        "seconds": 1.5,
    }


def run_sweep(folder, plain=PLAIN, uri=None):
    """A sweep of which only the training is made up; returns its outcome."""
    config = parse(plain)
    folder.mkdir()
    (folder / "sweep.yaml").write_text(config.anywhere().to_yaml())
    tracker = open_tracker(uri, "fedsmu", folder)
    recorder = SweepRecorder(config, SweepFolder(folder), tracker)
    for index, params in enumerate(list_params(config)):
        spec = TrialSpec.of(config, index, params)
        recorder.start(spec)
        per_round = 1000 if spec.config.method_name == "fedavg" else 30
        judged = "val" if config.data.validation else "test"
        for number in (2, 4):
            accuracy = 0.2 * number + (index * 7 % 5) / 50
            metrics = {f"{judged}/accuracy": accuracy, f"{judged}/loss": 1.0, "train/loss": 1.5}
            sent = {"comm/uplink_bytes": per_round * number, "comm/downlink_bytes": 1e3 * number}
            recorder.log(spec, number, {**metrics, **sent, "mu/upload": 0.5})
        metrics |= sent
        result = summary(spec.config.method_name, accuracy, 4 * per_round)
        if judged == "val":
            result |= {"val_accuracy": accuracy, "val_loss": 1.0, "best_val_accuracy": accuracy}
        recorder.complete(spec, result, metrics)
    return recorder.close("FINISHED", 1.0)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """The folder of a sweep, the URI of the store with its runs, and its outcome."""
    folder = tmp_path_factory.mktemp("sweeps")
    uri = f"sqlite:///{folder}/mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own, of its database layer
        return folder / "small-1", uri, run_sweep(folder / "small-1", uri=uri)


def test_at_its_end_a_sweep_has_a_report_in_its_folder_and_in_mlflow(tracked, tmp_path):
    from mlflow import MlflowClient

    folder, uri, outcome = tracked
    assert outcome["report"] == str(folder / "report.html")
    text = (folder / "report.html").read_text()
    assert "<strong>80 % test accuracy (means of 3 seeds)</strong>" in text
    for tag in ("fedsmu.device", "version.ray"):
        assert f"<dd>{escape(outcome['provenance'][tag])}</dd>" in text
    assert outcome["parent_run_id"] in text and outcome["versions"]["torch"] in text
    assert (folder / "report" / "accuracy.pdf").exists()
    client = MlflowClient(uri)
    logged = client.download_artifacts(outcome["parent_run_id"], "report.html", tmp_path)
    with open(logged, encoding="utf-8") as file:
        assert file.read() == text
    assert json.loads((folder / "results.json").read_text())["report"] == outcome["report"]


def test_a_folder_and_its_runs_in_mlflow_give_the_same_report(tracked):
    folder, uri, outcome = tracked
    own = reporting.of_folder(folder)
    parent, runs = tracked_sweep(uri, outcome["parent_run_id"])
    found = reporting.of_runs("small", uri, runs, parent)
    assert [row["method"] for row in found.settings] == [row["method"] for row in own.settings]
    for one, other in zip(own.settings, found.settings, strict=True):
        same = ("name", "score", "uplink_bytes", "test_accuracy", "rounds", "trials", "targets")
        assert {key: one[key] for key in same} == {key: other[key] for key in same}
        assert (one["difference"] or {}).get("p") == (other["difference"] or {}).get("p")
    assert found.histories == own.histories
    assert found.versions["python"] == own.versions["python"]
    assert own.versions["torch"].startswith(found.versions["torch"])
    assert found.facts["processor"] == own.facts["processor"] != ""
    assert "seeds: 3" in found.recipe and own.base() == found.base() == "fedavg"


def test_targets_of_the_user_take_the_place_of_the_sweeps_own(tracked):
    folder, _, _ = tracked
    found = reporting.of_folder(folder, [0.4, 0.99])
    assert [each["accuracy"] for each in found.findings] == [0.4, 0.99]
    assert found.findings[1]["missed_by"] == ["fedavg", "fedsmu"]


def test_the_runs_of_an_experiment_are_compared_by_what_differs(tracked):
    _, uri, _ = tracked
    found = reporting.of_runs("fedsmu", uri, tracked_experiment(uri, "fedsmu"), None)
    assert len(found.settings) == 5 and len(found.trials) == 15 and found.base() is None
    assert found.name == "fedsmu" and found.recipe == "" and found.seeds() == [3]
    with pytest.raises(ConfigError, match="experiment 'other': MLflow at .* but Default, fedsmu"):
        tracked_experiment(uri, "other")
    with pytest.raises(ConfigError, match=r"run 123 in MLflow at .*: cannot be read \(.*123"):
        tracked_sweep(uri, "123")
    with pytest.raises(ConfigError, match="there is no such database"):
        tracked_sweep("sqlite:////nowhere/mlflow.db", "123")


def test_with_validation_samples_figures_show_them_and_the_test_set_what_was_chosen(tmp_path):
    plain = {**PLAIN, "data": {"validation": 0.1}}
    outcome = run_sweep(tmp_path / "small-1", plain)
    assert outcome["report"]
    found = reporting.of_folder(tmp_path / "small-1")
    assert (found.metric, found.accuracy, found.set_name) == (
        "val/accuracy",
        "val/accuracy",
        "validation",
    )
    table = tables.settings(found)
    assert [text != "–" for text in table.columns["test accuracy (%)"]].count(True) == 2
    assert "–" not in table.columns["validation accuracy (%)"]
    text = (tmp_path / "small-1" / "report.html").read_text()
    assert "<strong>80 % validation accuracy (means of 3 seeds)</strong>" in text
    # Until it has ended, nothing is known of the test set.
    (tmp_path / "small-1" / "results.json").unlink()
    early = tables.settings(reporting.of_folder(tmp_path / "small-1"))
    assert set(early.columns["test accuracy (%)"]) == {"–"}


def test_a_sweep_that_still_runs_can_be_reported(tracked, tmp_path):
    folder, _, _ = tracked
    lines = (folder / "trials.jsonl").read_text().splitlines()
    (tmp_path / "trials.jsonl").write_text("\n".join(lines[:12]))
    (tmp_path / "sweep.yaml").write_bytes((folder / "sweep.yaml").read_bytes())
    found = reporting.of_folder(tmp_path)
    assert 0 < len(found.trials) < 6 and found.versions == {}


def test_a_report_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    outcome = run_sweep(tmp_path / "small-1")
    assert outcome["report"] is None and len(outcome["trials"]) == 15
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the report is not written (ModuleNotFoundError: import of matplotlib" in warning
    assert f"python -m fedsmu_ray.report {tmp_path}/small-1 tries again" in warning
    assert not (tmp_path / "small-1" / "report.html").exists()
