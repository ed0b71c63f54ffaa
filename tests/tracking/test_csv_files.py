"""Runs as CSV and JSON files."""

import csv
import json

import pytest

from fedsmu_ray.tracking.base import NewFile, NewRun
from fedsmu_ray.tracking.csv_files import CSVTracker
from tests.helpers.mlflow_runs import values

RUN = NewRun("a/b c=1", {"local.lr": "0.1"}, {"k": "v"}, {"config.yaml": "seed: 0\n"})


def test_the_folder_of_a_run(tmp_path):
    tracker = CSVTracker(tmp_path)
    run_id = tracker.start(RUN)
    tracker.log(run_id, values(1), 1)
    tracker.log(run_id, {**values(3), "clients/dropped": 2.0}, 3)
    tracker.log_file(run_id, NewFile("report.html", "<p>", "/elsewhere/report.html"))
    tracker.finish(run_id, "FINISHED", {"final/seconds": 1.5, "best/round": None}, {"t": "u"})
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"a_b_c=1-{run_id[:8]}"
    assert (folder / "config.yaml").read_text() == "seed: 0\n"
    assert (folder / "report.html").read_text() == "<p>"
    assert json.loads((folder / "run.json").read_text()) == {
        "id": run_id,
        "name": "a/b c=1",
        "parent": None,
        "status": "FINISHED",
        "params": {"local.lr": "0.1"},
        "tags": {"k": "v", "t": "u"},
        "metrics": {"final/seconds": 1.5},
    }
    with open(folder / "metrics.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["round"], first["train/loss"], first["clients/dropped"]) == ("1", "1.0", "")
    assert (second["round"], second["clients/dropped"]) == ("3", "2.0")


@pytest.mark.parametrize("cut", ["", "3,0.1", "round,te"])
def test_a_row_that_a_crash_cut_off_is_written_again(tmp_path, cut):
    run_id = CSVTracker(tmp_path).start(RUN)
    (file,) = tmp_path.rglob("metrics.csv")
    heading = file.read_text()
    if cut.startswith("round"):
        file.write_text(cut)
    else:
        file.write_text(f"{heading}2,0.5,,,,,,,\n{cut}")
    again = CSVTracker(tmp_path)
    assert again.resume(run_id, RUN) == run_id
    for step in (2, 3):
        again.log(run_id, values(step), step)
    again.finish(run_id)
    lines = file.read_text().splitlines()
    assert lines[0] + "\n" == heading and [line.split(",")[0] for line in lines[1:]] == ["2", "3"]


def test_the_end_of_a_run_that_was_not_begun_here_changes_nothing(tmp_path):
    """As of trials that a resumed sweep has not got to when it is interrupted again."""
    CSVTracker(tmp_path).finish("unknown", "KILLED")
    assert not [*tmp_path.iterdir()]
