"""System metrics by MLflow's own monitor, in a real store."""

import time
from dataclasses import replace

import pytest

from tests.helpers.mlflow_runs import connect, new_run

# MLflow's own warnings, of its database layer
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def steps(tracker, run_id):
    history = tracker.writer.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    return [metric.step for metric in history]


def test_a_run_has_them_if_it_asks_for_them_and_a_resumed_one_goes_on(tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    plain = tracker.start(new_run("plain"))
    asking = replace(new_run("asking"), system_metrics=True)
    run_id = tracker.start(asking)
    until = time.monotonic() + 60
    while len(steps(tracker, run_id)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    for each in (plain, run_id):
        tracker.finish(each, "KILLED")
    before = steps(tracker, run_id)
    assert before == list(range(len(before))) and len(before) >= 2
    assert steps(tracker, plain) == []
    again = connect(tracker.uri, tracker.folder)
    again.resume(run_id, asking)
    while len(steps(again, run_id)) <= len(before) and time.monotonic() < until:
        time.sleep(0.05)
    again.finish(run_id)
    after = steps(again, run_id)
    assert after == list(range(len(after))) and len(after) > len(before)


def test_a_store_that_is_away_costs_the_system_metrics_only(tracker):
    tracker.writer.client.is_up = False
    run_id = tracker.start(replace(new_run("away"), system_metrics=True))
    tracker.writer.client.is_up = True
    tracker.finish(run_id)
    assert not tracker.has_pending_writes() and not tracker._system._monitors
