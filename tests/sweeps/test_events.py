"""How events of Tune's trials are handled: records, lines, waiting."""

import os
from math import nan
from types import SimpleNamespace

import pytest
import ray

from fedsmu_ray import plugins
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError, DivergenceError, ExecutionError
from fedsmu_ray.executors import ray_nodes
from fedsmu_ray.executors.ray_placement import Growth
from fedsmu_ray.sweeps import events as handling
from fedsmu_ray.sweeps.failures import TrialFailure
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import REPORT, TrialReport

CONFIG = parse({"tune": {"scheduler": "asha", "baselines": [{"algorithm.name": "fedavg"}]}})
SUMMARY = {
    "rounds": 2,
    "test_accuracy": 0.5,
    "uplink_bytes": 2000,
    "dropped": 0,
    "seconds": 1.25,
}


class Calls:
    """A stub that records method calls and returns the given values."""

    def __init__(self, **returned):
        self.calls, self.returned = [], returned

    def __getattr__(self, name):
        def method(*arguments):
            self.calls.append((name, *arguments))
            return self.returned.get(name)

        return method


def tune_trial(index, **fields):
    spec = TrialSpec.of(CONFIG, index, {"local.lr": 0.1})
    given = {"last_result": {"hostname": "h2"}, **fields}
    return SimpleNamespace(config=spec.to_tune(), **given), spec


def events(status="completed"):
    recorder, progress = Calls(complete=status, fail=status), Calls()
    return handling.TrialEvents(recorder, progress, wait_s=900.0), recorder.calls, progress.calls


def test_a_round_is_recorded_and_displayed():
    handler, recorded, displayed = events()
    trial, spec = tune_trial(4)
    handler.on_trial_start(0, [], trial)
    report = TrialReport(2, {"test/accuracy": 0.5}, SUMMARY)
    handler.on_trial_result(0, [], trial, {REPORT: report})
    assert recorded == [("start", spec), ("log", spec, 2, {"test/accuracy": 0.5})]
    assert displayed == [("start", "004 lr=0.1"), ("update", "004 lr=0.1", 2, "test/accuracy", 0.5)]


@pytest.mark.parametrize("status, end", [("completed", ""), ("stopped", ", stopped after round 2")])
def test_an_ended_trial_is_displayed_as_a_line(status, end):
    handler, recorded, displayed = events(status)
    metrics = {"test/accuracy": 0.5}
    trial, spec = tune_trial(4, last_result={REPORT: TrialReport(2, metrics, SUMMARY)})
    handler.on_trial_complete(0, [], trial)
    assert recorded == [("complete", spec, SUMMARY, metrics)]
    line = f"50.00 %, upload 2 kB, 1.2 s{end}"
    assert displayed == [("finish", "004 lr=0.1", line, "test/accuracy", 0.5)]


@pytest.mark.parametrize("diverged, status", [(False, "failed"), (True, "diverged")])
def test_a_failure_is_recorded_once_in_one_line(diverged, status):
    handler, recorded, displayed = events(status)
    result = {REPORT: TrialFailure("ClientError: round 1,\n client 2", diverged)}
    trial, spec = tune_trial(4, last_result=result)
    handler.on_trial_result(0, [], trial, result)
    assert recorded == displayed == []
    handler.on_trial_complete(0, [], trial)
    assert recorded == [("fail", spec, "ClientError: round 1, client 2", diverged)]
    line = f"{status}: ClientError: round 1, client 2"
    assert displayed == [("finish", "004 lr=0.1", line)]


LOST_NODE = """The actor died unexpectedly before finishing this task.
\tclass_name: with_parameters
\tactor_id: 6d9c
\tpid: 812
\tip: 10.77.0.2
The actor is dead because its node has died. Node Id: 5a11
\tthe actor's node was terminated unexpectedly: health check failed
"""
NOT_MADE = """The actor died because of an error raised in its creation task,
ray::x() (pid=77, ip=10.77.0.3)
  File "x.py", line 1, in f
ModuleNotFoundError: No module named 'fedsmu_ray'
"""
LOST = "the trial's process was lost"
WHY_LOST = f"{LOST} (on h2: its node has died)"
WHY_NOT_MADE = (
    "its process could not be made on h3, process 77: ModuleNotFoundError: No module named "
    "'fedsmu_ray'"
)


@pytest.mark.parametrize(
    "text, cause",
    [
        (
            "Traceback (most recent call last):\n  File 'x'\nray.exceptions.RayTaskError: y\n"
            "fedsmu_ray.errors.ConfigError: the configuration\n  has a problem\n",
            "ConfigError: the configuration has a problem",
        ),
        ("ray.exceptions.ActorDiedError: The actor died.", f"{LOST} (on h2)"),
        ("The actor 6d9c is unavailable: RpcError: Socket closed.", f"{LOST} (on h2)"),
        (LOST_NODE, WHY_LOST),
        (NOT_MADE, WHY_NOT_MADE),
        (f"Failure # 1 (at x)\n{NOT_MADE}Failure # 2 (at y)\n{LOST_NODE}", WHY_LOST),
        ("", "unknown cause; see {file}"),
    ],
)
def test_the_cause_of_an_unexpected_failure_is_one_line(tmp_path, monkeypatch, text, cause):
    host = {"NodeManagerAddress": "10.77.0.3", "NodeManagerHostname": "h3"}
    monkeypatch.setattr(ray, "nodes", lambda: [host])
    file = tmp_path / "error.txt"
    file.write_text(text)
    handler, recorded, _ = events()
    trial, spec = tune_trial(4, error_file=str(file), pickled_error_file=None)
    handler.on_trial_error(0, [], trial)
    assert recorded == [("fail", spec, cause.format(file=file), False)]


@pytest.mark.parametrize("event", ["on_trial_recover", "on_trial_error"])
def test_secrets_in_an_error_that_tune_keeps_are_cut_out(tmp_path, event):
    """Ray writes the command lines of the largest processes into the error of a full memory."""
    text, pickled = tmp_path / "error.txt", tmp_path / "error.pkl"
    text.write_text("ActorDiedError: top: 12 0.3GB tune r.yaml tracking.uri=http://me:s3cr3t@h\n")
    pickled.write_bytes(b"s3cr3t")
    counted = SimpleNamespace(num_failures=1)
    trial, _ = tune_trial(
        4, error_file=str(text), pickled_error_file=str(pickled), run_metadata=counted
    )
    getattr(events()[0], event)(0, [], trial)
    assert "http://me:***@h" in text.read_text() and [*tmp_path.iterdir()] == [text]


def test_a_trial_that_starts_again_is_told_with_the_reason(tmp_path):
    file = tmp_path / "error.txt"
    file.write_text(LOST_NODE)
    handler, recorded, displayed = events()
    counted = SimpleNamespace(num_failures=1)
    trial, _ = tune_trial(4, error_file=str(file), pickled_error_file=None, run_metadata=counted)
    handler.on_trial_recover(0, [], trial)
    assert recorded == [] and displayed == [
        (
            "print_line",
            "004 lr=0.1: the trial's process was lost (on h2: its node has died); starts "
            "again from round 1 (checkpoint.every is not set), 1 of at most 2 times",
        )
    ]


def test_checkpoints_that_other_nodes_do_not_see_are_told_once(caplog, tmp_path):
    handler, _, displayed = events()
    spec = TrialSpec.of(CONFIG, 4, {"checkpoint.every": 1})
    (tmp_path / "error.txt").write_text(LOST_NODE)
    fields = {
        "error_file": str(tmp_path / "error.txt"),
        "pickled_error_file": None,
        "last_result": {},
    }
    counted = SimpleNamespace(num_failures=1)
    trial = SimpleNamespace(config=spec.to_tune(), **fields, run_metadata=counted)
    for round in (1, 2):
        report = TrialReport(round, {"test/accuracy": 0.5}, SUMMARY, apart="gpu-1")
        handler.on_trial_result(0, [], trial, {REPORT: report})
    (record,) = caplog.records
    assert "on gpu-1, which does not see the folder of the sweep: a trial that moves" in (
        record.getMessage()
    )
    handler.on_trial_recover(0, [], trial)
    assert "its last checkpoint, or from round 1 on a node that does not" in displayed[-1][1]


def test_the_traceback_of_an_unforeseen_exception_is_kept(tmp_path):
    try:
        raise ZeroDivisionError("token=s3cr3t of http://me:s3cr3t@h")
    except ZeroDivisionError as error:
        failure = TrialFailure.of(error)
    assert f", process {os.getpid()})" in failure.error and not failure.diverged
    handler, recorded, _ = events()
    handler.recorder.folder = SimpleNamespace(path=tmp_path)
    trial, spec = tune_trial(4, last_result={REPORT: failure})
    handler.on_trial_complete(0, [], trial)
    ((_, _, line, _),) = recorded
    file = tmp_path / "trial-004-error.txt"
    assert line.endswith(f"; see {file}") and "http://me:***@h" in file.read_text()
    assert "test_events.py" in file.read_text()


def test_the_traceback_of_the_users_code_is_kept():
    try:
        plugins.call("model.name", "import:mine:model", lambda: 1 / 0)
    except ConfigError as error:
        failure = TrialFailure.of(error)
    assert "ZeroDivisionError: division by zero" in failure.traceback
    assert "test_events.py" in failure.traceback


def test_a_foreseen_error_needs_no_traceback_and_a_divergence_no_place():
    assert TrialFailure.of(ExecutionError("x")).traceback == ""
    assert TrialFailure.of(DivergenceError("round 2")) == TrialFailure(
        "DivergenceError: round 2", True
    )


def test_what_no_trial_can_start_for_is_told_and_ends_the_sweep(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(handling.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_nodes, "free", lambda: "h1 (0 CPUs)")
    monkeypatch.setattr(handling, "has_placed", lambda: False)
    monkeypatch.setattr(handling, "growth", lambda compute: Growth(4, "at most 4 workers"))
    progress = Calls()
    handler = handling.TrialEvents(Calls(), progress, wait_s=70.0)
    trial, spec = tune_trial(0, status="PENDING", PENDING="PENDING")
    for now[0] in range(60):
        handler.on_step_begin(0, [trial])
    assert [record.getMessage() for record in caplog.records] == [
        "no trial runs since 30 s: a trial needs 1 CPU, and free are h1 (0 CPUs); the autoscaler "
        "may have at most 4 workers; gives up after 70 s (compute.wait_s)"
    ]
    handler.on_trial_start(0, [], trial)
    now[0] = 1000.0
    handler.on_step_begin(0, [trial])  # it runs
    handler.on_trial_error(0, [], tune_trial(0, error_file=None, pickled_error_file=None)[0])
    for now[0] in range(1000, 1070):
        handler.on_step_begin(0, [trial])
    now[0] = 1070.0
    with pytest.raises(ExecutionError, match="no trial could start for 70 s .compute.wait_s.: "):
        handler.on_step_begin(0, [trial])


def test_a_diverged_trial_is_displayed_as_such():
    config = parse({"tune": {"metric": "test/loss"}})
    spec = TrialSpec.of(config, 4, {"local.lr": 0.1})
    report = TrialReport(2, {"test/accuracy": 0.5, "test/loss": nan}, SUMMARY)
    trial = SimpleNamespace(config=spec.to_tune(), last_result={REPORT: report})
    handler, _, displayed = events("diverged")
    handler.on_trial_complete(0, [], trial)
    line = "diverged: test/loss nan, 50.00 %, upload 2 kB, 1.2 s, stopped after round 2"
    assert displayed == [("finish", "004 lr=0.1", line)]
