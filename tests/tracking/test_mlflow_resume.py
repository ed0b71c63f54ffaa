"""Runs that are resumed get every point once, and are begun anew where the store lacks them."""

import pytest

from fedsmu_ray.tracking.registry import open_tracker
from tests.helpers.mlflow_runs import connect, held, new_run, points, values

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("is_up", [True, False])
def test_a_resumed_run_gets_no_point_twice(tracker, is_up):
    run = tracker.start(new_run("resumed"))
    for step in (1, 2, 3):
        tracker.log(run, values(step), step)
    again = connect(tracker.uri, tracker.folder)
    again.writer.client.is_up = is_up
    again.resume(run, new_run("again"))
    assert again._runs[run].cursor.last == (3 if is_up else 0)
    for step in range(1, 6):
        again.log(run, values(step), step)
    again.writer.client.is_up = True
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points(range(1, 6))


def test_a_run_that_ended_and_is_resumed_in_the_same_process_gets_no_point_twice(tracker):
    run = tracker.start(new_run("ended"))
    tracker.log(run, values(1), 1)
    tracker.finish(run, "FAILED", {"final/x": 1.0})
    tracker.resume(run, new_run("again"))
    for step in (1, 2):
        tracker.log(run, values(step), step)
    tracker.finish(run, "FINISHED", {"final/x": 2.0})
    ((status, _, _, history, _),) = held(tracker).values()
    final = history.pop("final/x")
    assert status == "FINISHED" and history == points([1, 2])
    assert sorted(final) == [(0, 1.0), (0, 2.0)]  # final metrics are not rounds


def test_a_run_started_without_the_server_is_found_again_by_the_next_process(tracker):
    tracker.writer.client.is_up = False
    run = tracker.start(new_run("started offline"))
    tracker.log(run, values(1), 1)
    tracker.writer.client.is_up = True
    tracker.flush()  # then the process is killed
    again = connect(tracker.uri, tracker.folder)
    again.resume(run, new_run("again"))
    assert run.startswith("local-") and again._runs[run].cursor.last == 1
    again.log(run, values(1), 1)
    again.log(run, values(2), 2)
    again.finish(run)
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history == points([1, 2])


def test_a_run_that_was_deleted_is_resumed_as_a_new_one_with_everything(tracker, caplog):
    run = tracker.start(new_run("old"))
    tracker.log(run, values(1), 1)
    tracker.writer.client.client.delete_run(run)
    again = connect(tracker.uri, tracker.folder)
    new = again.resume(run, new_run("new"))
    assert new != run and f"run {run} was deleted in MLflow at {tracker.uri}; a new" in caplog.text
    for step in (1, 2):
        again.log(new, values(step), step)
    again.finish(new)
    ((name, (status, params, _, history, files)),) = held(again).items()
    assert (name, status, history, files) == ("new", "FINISHED", points([1, 2]), ["config.yaml"])
    assert params["federation.rounds"] == "40" and again.missing is None
    # The next process that knows only the old id finds the new run.
    assert connect(tracker.uri, tracker.folder).resume(run, new_run("third")) == new


@pytest.mark.parametrize("is_up", [True, False])
def test_a_run_of_another_store_or_experiment_is_begun_anew(tracker, tmp_path, caplog, is_up):
    elsewhere = open_tracker(tracker.uri, "elsewhere", tmp_path)
    other = elsewhere.start(new_run("other"))
    elsewhere.log(other, values(1), 1)
    tracker.writer.client.is_up = is_up
    ids = [tracker.resume(run, new_run(f"for {run}")) for run in (other, "0" * 32, "local-1")]
    tracker.writer.client.is_up = True
    for run in ids:
        tracker.log(run, values(1), 1)
        tracker.finish(run)
    assert {name: run[3] for name, run in held(tracker).items()} == {
        f"for {run}": points([1]) for run in (other, "0" * 32, "local-1")
    }
    assert "belongs to another experiment in" in caplog.text and "is not in MLflow" in caplog.text
    assert list(tracker.folder.iterdir()) == []


def test_a_finished_run_that_is_resumed_gets_its_final_points_once(tracker):
    final = {"final/x": 1.0, "final/nan": float("nan"), "final/seconds": 10.0}
    run = tracker.start(new_run("finished"))
    tracker.log(run, values(1), 1)
    tracker.finish(run, metrics=final)
    again = connect(tracker.uri, tracker.folder)
    again.resume(run, new_run("again"))
    again.log(run, values(1), 1)
    again.finish(run, metrics={**final, "final/seconds": 0.1})
    ((status, _, _, history, _),) = held(again).values()
    assert status == "FINISHED" and history["test/accuracy"] == [(1, 0.01)]
    assert [len(history[name]) for name in final] == [1, 1, 1]
    assert history["final/seconds"] == [(0, 10.0)]
    # With more rounds the values are new ones.
    third = connect(tracker.uri, tracker.folder)
    third.resume(run, new_run("third"))
    third.log(run, values(2), 2)
    third.finish(run, metrics={"final/x": 2.0, "final/seconds": 3.0})
    data = third.writer.client.client.get_run(run).data.metrics
    assert (data["final/x"], data["final/seconds"]) == (2.0, 3.0)
