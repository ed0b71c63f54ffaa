"""The charts of a sweep in MLflow's UI: a real server and, where there is one, a real browser."""

import re
import shutil
import signal
import subprocess

import pytest

from fedsmu_ray.tracking import mlflow_ui
from fedsmu_ray.tracking.base import NewRun, View
from fedsmu_ray.tracking.mlflow import MLflowTracker
from tests.helpers import commands

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's own, of its database layer
    pytest.mark.usefixtures("keep_signal_handlers"),
]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DUMP = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1600,1400"]
DUMP += ["--virtual-time-budget=60000", "--dump-dom"]


@pytest.fixture
def tracked(tmp_path):
    """The URI of a store with a sweep of two settings, whose view is saved."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MLflowTracker(uri, "fedsmu", tmp_path)
    parent = tracker.start(NewRun("sweep", {}))
    assert tracker.publish(View("Sweep one", parent, ("local.lr",), "fedsmu.setting"))
    for setting, method, unit in (("fedsmu lr=0.1", "fedsmu", 1e4), ("fedavg", "fedavg", 3e5)):
        for seed in (0, 1):
            params = {"algorithm.name": method, "local.lr": "0.1", "seed": str(seed)}
            name = f"{method} {seed}"
            run = tracker.start(NewRun(name, params, {"fedsmu.setting": setting}, parent=parent))
            for number in (1, 2, 3):
                sent = {"comm/uplink_bytes": unit * number, "comm/downlink_bytes": 3e5 * number}
                accuracy = {"test/accuracy": 0.3 * number, "train/loss": 1.0}
                tracker.log(run, {**sent, **accuracy}, number)
            final = {"final/test_accuracy": 0.9, "final/uplink_bytes": 3 * unit}
            tracker.finish(run, metrics=final)
    tracker.finish(parent)
    return uri


def test_without_a_sweep_the_runs_are_linked_and_a_missing_database_is_named(tmp_path, capsys):
    from fedsmu_ray import ui

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert ui.main([uri]) == 2
    assert f"{tmp_path}/mlflow.db: no such database; run a sweep first" in capsys.readouterr().err
    MLflowTracker(uri, "fedsmu", tmp_path)
    found = mlflow_ui.latest_view(uri, "fedsmu")
    assert re.fullmatch(r"#/experiments/\d+/runs\?workflowType=machine_learning", found)


def test_of_a_running_server_only_the_link_is_printed(monkeypatch, capsys):
    from fedsmu_ray import ui

    monkeypatch.setattr(mlflow_ui, "latest_view", lambda uri, experiment: "#/experiments/1/runs")
    assert ui.main(["http://me:s3cr3t@host:5000/"]) == 0
    assert capsys.readouterr().out == "http://host:5000/#/experiments/1/runs\n"


def test_accuracy_is_in_the_store_over_kilobytes(tracked):
    from mlflow import MlflowClient

    client = MlflowClient(tracked)
    (experiment,) = client.search_experiments(filter_string="name = 'fedsmu'")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'fedsmu 0'")
    history = client.get_metric_history(run.info.run_id, "test/accuracy_by_upload_kB")
    points = [(metric.step, round(metric.value, 6)) for metric in history]
    assert sorted(points) == [(10, 0.3), (20, 0.6), (30, 0.9)]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_command_that_the_quickstart_prints_opens_the_charts_over_bytes(tmp_path):
    """Pins the format of MLflow's shared views, which is not documented."""
    short = ["federation.rounds=2", "tune.seeds=2", "model.hidden=[8]", "compute.executor=inline"]
    with commands.command(tmp_path, "tune", *short) as tune:
        out, err = tune.communicate(timeout=300)
    assert tune.returncode == 0, err
    printed = re.search(r"python -m fedsmu_ray\.(ui) (sqlite:\S+)$", out, re.MULTILINE)
    assert printed and "accuracy over uploaded kilobytes" in out, out
    with commands.command(tmp_path, *printed.groups()) as ui:
        url = ui.stdout.readline().strip()
        assert "&compareRunsMode=CHART&viewStateShareKey=fedsmu-" in url
        shown, runs = (
            dom(tmp_path, each) for each in (url, url.replace("fedsmu-", "fedsmu_runs-"))
        )
        ui.send_signal(signal.SIGINT)
        assert ui.wait(timeout=60) == 0
    text = " ".join(re.sub(r"<[^>]+>", " ", shown).split())
    assert "Accuracy for bytes" in text, text[:2000]
    shown_texts = ("Sweep quickstart", "Group by: fedsmu.setting", "fedavg lr=0.3")
    for shown_text in (*shown_texts, "12 matching runs"):
        assert shown_text in text, text[:4000]
    assert "test/accuracy_by_upload_kB" in shown
    assert "Sweep quickstart: runs" in runs and "Parallel Coordinates" in runs
    assert "Group by: fedsmu.setting" not in runs


def dom(tmp_path, url):
    """What a browser makes of a page."""
    command = [BROWSER, *DUMP, f"--user-data-dir={tmp_path}/browser", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
