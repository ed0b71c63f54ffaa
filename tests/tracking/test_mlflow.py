"""MLflow: an unreachable server does not stop training, and every point is written once."""

import json
import logging
import re

import pytest

from fedsmu_ray.tracking import mlflow as tracking
from fedsmu_ray.tracking.base import DESCRIPTION, NewFile, NewRun, run_link
from tests.helpers.mlflow_runs import connect, held, new_run, points, values

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_sweep_continues_while_its_store_is_unreachable(tracker, caplog):
    connection = tracker.writer.client
    parent = tracker.start(new_run("sweep", {"fedsmu.sweep": "parent"}))
    first = tracker.start(new_run("first", parent=parent))
    tracker.log(first, values(1), 1)
    connection.is_up = False
    for step in range(2, 301):
        tracker.log(first, values(step), step)
    second = tracker.start(
        new_run("second", parent=parent)
    )  # starts, trains and ends while the store is unreachable
    tracker.log(second, values(1), 1)
    tracker.finish(second, metrics={"final/x": 2.0}, tags={"fedsmu.status": "completed"})
    tracker.finish(first, "KILLED")
    connection.is_up = True
    third = tracker.start(new_run("third", parent=parent))
    tracker.finish(third)
    tracker.finish(
        parent, tags={"fedsmu.best_run": second, DESCRIPTION: f"**{run_link('best', second)}**"}
    )
    runs = held(tracker)
    assert not tracker.has_pending_writes() and set(runs) == {"sweep", "first", "second", "third"}
    found = connection.client.search_runs([tracker.writer.experiment_id])
    by_name = {r.info.run_name: r.info.run_id for r in found}
    assert by_name["first"] == first and by_name["second"] != second
    assert [runs[n][0] for n in ("sweep", "first", "second", "third")] == [
        "FINISHED",
        "KILLED",
        "FINISHED",
        "FINISHED",
    ]
    assert runs["first"][3] == points(range(1, 301))
    assert runs["second"][3] == {**points([1]), "final/x": [(0, 2.0)]}
    assert runs["second"][2]["fedsmu.status"] == "completed"
    assert runs["sweep"][2]["fedsmu.best_run"] == by_name["second"]
    place = f"#/experiments/{tracker.writer.experiment_id}/runs/{by_name['second']}"
    assert runs["sweep"][2]["mlflow.note.content"] == f"**[best]({place})**"
    for name in ("first", "second", "third"):
        assert runs[name][2]["mlflow.parentRunId"] == by_name["sweep"] == parent
        assert runs[name][1]["federation.rounds"] == "40" and runs[name][4] == ["config.yaml"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "does not respond (connection refused)" in warnings[0]
    assert list(tracker.folder.iterdir()) == []


def test_a_run_has_the_parameters_tags_and_files_it_was_given(tracker):
    run = tracker.start(
        NewRun("given", {"a": "1", "b": "x"}, {"t": "u"}, {"one.txt": "1", "two.txt": "2"})
    )
    tracker.finish(run)
    status, params, tags, history, files = held(tracker)["given"]
    assert (status, params, tags["t"], history) == ("FINISHED", {"a": "1", "b": "x"}, "u", {})
    assert sorted(files) == ["one.txt", "two.txt"] and tags["fedsmu.id"].startswith("local-")


@pytest.mark.parametrize("is_created", [True, False])
def test_a_run_whose_start_was_interrupted_does_not_stay_running(tracker, monkeypatch, is_created):
    parent = tracker.start(new_run("sweep"))
    client = tracker.writer.client.client

    def interrupted(*given):
        if is_created:
            client.create_run(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracker.writer.client, "create_run", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            tracker.start(new_run("child", parent=parent))
    tracker.finish(parent, "KILLED")
    assert {name: run[0] for name, run in held(tracker).items()} == {
        "sweep": "KILLED",
        "child": "KILLED",
    }


def test_the_data_set_is_an_input_of_the_run_once_however_often_it_is_written(tracker):
    data = {"name": "digits", "digest": "ab" * 32, "source": "{}", "profile": '{"clients": 5}'}
    given = NewRun("data", {}, dataset=data)
    tracker.writer.client.loses_responses = True
    run = tracker.start(given)
    tracker.log(run, values(1), 1)
    tracker.writer.client.loses_responses = False
    tracker.finish(run, "KILLED")
    client, run_id = tracker.writer.client.client, tracker._store_id(run)
    again = connect(tracker.uri, tracker.folder)
    again.resume(run_id, given)
    again.finish(run_id)
    (used,) = client.get_run(run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "ab" * 6)
    assert used.dataset.profile == '{"clients": 5}'
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_a_file_is_logged_when_the_store_is_back_or_else_named_where_it_is(tracker):
    report = NewFile("report.html", "<p>é", "/runs/report.html")
    for name, is_back in (("back", True), ("away", False)):
        run = tracker.start(new_run(name))
        tracker.writer.client.is_up = False
        tracker.log_file(run, report)
        tracker.flush()
        tracker.writer.client.is_up = is_back
        tracker.finish(run)
    tracker.writer.client.is_up = True
    client = tracker.writer.client.client
    by_name = {r.info.run_name: r for r in client.search_runs([tracker.writer.experiment_id])}
    folder = tracker.folder / "downloaded"
    folder.mkdir()
    path = client.download_artifacts(by_name["back"].info.run_id, "report.html", folder)
    with open(path, encoding="utf-8") as file:
        assert file.read() == "<p>é"
    assert held(tracker)["away"][4] == ["config.yaml"]
    (left,) = tracker.folder.glob("not-in-mlflow-*")
    lines = [json.loads(line) for line in left.read_text().splitlines()]
    files = [line["values"] for line in lines if line["what"] == "report.html"]
    assert files == [{"name": "report.html", "path": "/runs/report.html"}]


def test_lost_responses_write_nothing_twice(tracker):
    tracker.writer.client.loses_responses = True
    run = tracker.start(new_run("deaf"))
    for step in range(1, 6):
        tracker.log(
            run, values(step), step
        )  # every attempt executes one more write without a response
    tracker.writer.client.loses_responses = False
    tracker.finish(run, tags={"a": "b"})
    ((name, (status, params, tags, history, files)),) = held(tracker).items()
    assert (name, status, tags["a"], files) == ("deaf", "FINISHED", "b", ["config.yaml"])
    assert history == points(range(1, 6)) and params["federation.rounds"] == "40"


@pytest.mark.parametrize("is_up", [True, False])
def test_a_round_that_is_logged_twice_is_written_once(tracker, is_up):
    """As after a restart from a checkpoint, with the first rounds written or still queued."""
    run = tracker.start(new_run("repeated"))
    tracker.writer.client.is_up = is_up
    for step in (1, 2, 3, 2, 3, 4, 4):
        tracker.log(run, values(step), step)
    tracker.writer.client.is_up = True
    for step in (1, 4, 5):
        tracker.log(run, values(step), step)
    tracker.finish(run, metrics={"final/x": 2.0})
    ((status, _, _, history, _),) = held(tracker).values()
    assert status == "FINISHED" and history == {**points(range(1, 6)), "final/x": [(0, 2.0)]}


def test_points_that_could_not_be_written_are_saved_in_a_file(tracker, caplog):
    run = tracker.start(new_run("alone"))
    tracker.writer.client.is_up = False
    for step in (1, 2, 1, 2, 3):
        tracker.log(run, values(step), step)
    tracker.finish(run, metrics={"final/x": 1.0})
    (path,) = tracker.folder.iterdir()
    assert re.fullmatch(r"not-in-mlflow-\d{8}-\d{6}-\d+\.jsonl", path.name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["run"], line["what"]) for line in lines] == [
        (run, "metrics"),
        (run, "metrics"),
        (run, "end"),
    ]
    assert [(step, of) for step, _, of in lines[0]["values"]] == [(s, values(s)) for s in (1, 2, 3)]
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 3 and "does not respond" in said[0] and "retrying for up to" in said[1]
    assert str(path) in said[2]


def test_a_warning_is_logged_if_that_file_cannot_be_written(tracker, caplog):
    run = tracker.start(new_run("lost"))
    tracker.writer.client.is_up = False
    tracker.folder = tracker.folder / "file" / "folder"
    tracker.folder.parent.write_text("")
    tracker.finish(run)
    assert "what is missing there is lost" in caplog.records[-1].getMessage()
    assert "Not a directory" in caplog.records[-1].getMessage()


def test_there_is_a_pause_between_attempts_to_reach_the_server(tracker, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_INTERVAL_S", 1000.0)
    run = tracker.start(new_run("patient"))
    tracker.writer.client.is_up = False
    tracker.next_flush = 0.0
    tracker.log(run, values(1), 1)
    calls = tracker.writer.client.calls
    for step in range(2, 50):
        tracker.log(run, values(step), step)
    tracker.start(new_run("another"))
    assert tracker.writer.client.calls == calls
