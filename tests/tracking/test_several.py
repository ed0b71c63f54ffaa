"""Several trackers at once: the same ids, each round once, and none that stops the training."""

import csv
import json
import logging
import subprocess
import sys

import pytest

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.tracking import registry
from fedsmu_ray.tracking.base import NewFile, NewRun, NoTracker
from fedsmu_ray.tracking.registry import also_places, check_packages, open_tracker
from fedsmu_ray.tracking.several import SeveralTrackers
from tests.helpers.mlflow_runs import new_run, values


def rows(folder):
    """The rounds of each run in a folder of CSV files, by the id of the run."""
    found = {}
    for about in folder.rglob("run.json"):
        with open(about.with_name("metrics.csv"), newline="") as file:
            rounds = [int(row["round"]) for row in csv.DictReader(file)]
        run = json.loads(about.read_text())
        found[run["id"]] = run["name"], run["parent"], run["status"], rounds
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of its database layer
def test_all_trackers_have_the_runs_under_the_ids_of_mlflow(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = open_tracker(uri, "several", tmp_path, ("csv", "tensorboard"), tmp_path / "logs")
    assert tracker.uri == uri and tracker.missing is None
    parent = tracker.start(new_run("sweep"))
    child = tracker.start(new_run("a=0.1 s=0", parent=parent))
    for step in (1, 2, 2, 1):
        tracker.log(child, values(step), step)
    tracker.finish(child, "KILLED")
    tracker.finish(parent, "KILLED")
    again = open_tracker(uri, "several", tmp_path, ("csv", "tensorboard"), tmp_path / "logs")
    assert again.resume(parent, new_run("sweep")) == parent
    assert again.resume(child, new_run("a=0.1 s=0", parent=parent)) == child
    for step in (1, 2, 3):
        again.log(child, values(step), step)
    again.finish(child, "FINISHED", {"final/test_accuracy": 0.5}, {"model_sha256": "ab"})
    again.log_file(parent, NewFile("report.txt", "best", "/elsewhere"))
    again.finish(parent)
    assert [file.read_text() for file in tmp_path.rglob("report.txt")] == ["best"] * 2
    assert rows(tmp_path / "logs" / "csv") == {
        parent: ("sweep", None, "FINISHED", []),
        child: ("a=0.1 s=0", parent, "FINISHED", [1, 2, 3]),
    }
    client = again.first.writer.client
    history = client.get_metric_history(child, "train/loss")
    assert [point.step for point in history] == [1, 2, 3]
    assert len([*(tmp_path / "logs" / "tensorboard").rglob("events.*")]) == 4


def test_a_run_that_mlflow_begins_anew_is_begun_anew_everywhere(tmp_path):
    class Anew(NoTracker):
        def resume(self, run_id, run):
            return f"new-{run_id}"

    others = {"csv": registry._open("csv", tmp_path, "e")}
    tracker = SeveralTrackers(Anew(), others)
    run_id = tracker.start(NewRun("run", {}))
    tracker.log(run_id, values(1), 1)
    tracker.finish(run_id)
    new = SeveralTrackers(Anew(), {"csv": registry._open("csv", tmp_path, "e")})
    assert new.resume(run_id, NewRun("run", {})) == f"new-{run_id}"
    new.log(f"new-{run_id}", values(1), 1)
    new.finish(f"new-{run_id}")
    assert {name: each[3] for name, each in rows(tmp_path).items()} == {
        run_id: [1],
        f"new-{run_id}": [1],
    }


def test_without_mlflow_runs_have_ids_of_their_own_and_mlflow_is_not_imported(tmp_path):
    code = (
        "import sys\n"
        "from fedsmu_ray.tracking.base import NewRun\n"
        "from fedsmu_ray.tracking.registry import open_tracker\n"
        f"tracker = open_tracker(None, 'e', '.', ['csv'], {str(tmp_path)!r})\n"
        "run = tracker.start(NewRun('one', {'lr': '0.1'}))\n"
        "tracker.log(run, {'train/loss': 1.0}, 1)\n"
        "tracker.finish(run)\n"
        "print(tracker.uri, len(run), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "32", "False"] and done.stderr == ""
    ((name, parent, status, rounds),) = rows(tmp_path / "csv").values()
    assert (name, parent, status, rounds) == ("one", None, "FINISHED", [1])


def test_another_tracker_that_fails_costs_one_warning_and_nothing_else(tmp_path, caplog):
    (tmp_path / "csv").write_text("a file where a folder has to be made")
    tracker = open_tracker(None, "e", tmp_path, ("csv", "tensorboard"), tmp_path)
    run_id = tracker.start(NewRun("one", {}))
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            tracker.log(run_id, values(step), step)
        tracker.finish(run_id)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"tracking.also = csv: {tmp_path}/csv cannot be written (")
    assert message.endswith("the rest of the runs of this command is not there")
    assert len([*(tmp_path / "tensorboard").rglob("events.*")]) == 1


def test_a_package_that_is_missing_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    check_packages(["csv"])
    with pytest.raises(ConfigError, match="system_metrics = true: .*; pip install psutil"):
        check_packages([], system_metrics=True)
    with pytest.raises(ConfigError) as error:
        check_packages(["csv", "tensorboard", "wandb"])
    assert error.value.problems == [
        f"tracking.also = {name}: the package is not installed; pip install 'fedsmu-ray[{name}]'"
        for name in ("tensorboard", "wandb")
    ]


def test_where_to_look(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert also_places(("csv", "tensorboard", "wandb"), "/my logs") == {
        "csv": "'/my logs/csv'",
        "tensorboard": "tensorboard --logdir '/my logs/tensorboard'",
        "wandb": "wandb sync '/my logs/wandb'/offline-run-*",
    }
    monkeypatch.setenv("WANDB_MODE", "online")
    assert also_places(("wandb",), "logs") == {"wandb": "https://wandb.ai"}
