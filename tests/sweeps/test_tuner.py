"""How events of Tune's trials are handled, and which trials ASHA may stop."""

from math import inf, nan
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fedsmu_ray.config.validation import parse
from fedsmu_ray.sweeps import tuner
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import REPORT, TrialFailure, TrialReport

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
    return SimpleNamespace(config=spec.to_tune(), **fields), spec


def events(status="completed"):
    recorder, progress = Calls(complete=status, fail=status), Calls()
    return tuner.TrialEvents(recorder, progress), recorder.calls, progress.calls


def test_a_round_is_recorded_and_displayed():
    handler, recorded, displayed = events()
    trial, spec = tune_trial(4)
    handler.on_trial_start(0, [], trial)
    report = TrialReport(2, {"test/accuracy": 0.5}, SUMMARY)
    handler.on_trial_result(0, [], trial, {REPORT: report})
    assert recorded == [("start", spec), ("log", spec, 2, {"test/accuracy": 0.5})]
    assert displayed == [("start", "004 lr=0.1"), ("update", "004 lr=0.1", 2, 0.5)]


@pytest.mark.parametrize("status, end", [("completed", ""), ("stopped", ", stopped after round 2")])
def test_an_ended_trial_is_displayed_as_a_line(status, end):
    handler, recorded, displayed = events(status)
    metrics = {"test/accuracy": 0.5}
    trial, spec = tune_trial(4, last_result={REPORT: TrialReport(2, metrics, SUMMARY)})
    handler.on_trial_complete(0, [], trial)
    assert recorded == [("complete", spec, SUMMARY, metrics)]
    line = f"50.00 %, upload 2 kB, 1.2 s{end}"
    assert displayed == [("finish", "004 lr=0.1", line, 0.5)]


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
    assert displayed == [("finish", "004 lr=0.1", line, None)]


@pytest.mark.parametrize(
    "text, cause",
    [
        (
            "Traceback (most recent call last):\n  File 'x'\nray.exceptions.RayTaskError: y\n"
            "fedsmu_ray.errors.ConfigError: the configuration\n  has a problem\n",
            "ConfigError: the configuration has a problem",
        ),
        ("ray.exceptions.ActorDiedError: The actor died.", "the trial's process was lost"),
        ("", "unknown cause; see {file}"),
    ],
)
def test_the_cause_of_an_unexpected_failure_is_one_line(tmp_path, text, cause):
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
    trial, _ = tune_trial(4, error_file=str(text), pickled_error_file=str(pickled))
    getattr(events()[0], event)(0, [], trial)
    assert "http://me:***@h" in text.read_text() and [*tmp_path.iterdir()] == [text]


def test_asha_stops_trials_and_never_the_baselines():
    scheduler = tuner._scheduler(CONFIG.tune, rounds=9)
    decisions = []
    for index, accuracy in ((1, 0.9), (2, 0.8), (3, 0.1), (0, 0.0)):
        trial, _ = tune_trial(index, trial_id=str(index))
        scheduler.on_trial_add(None, trial)
        result = {"round": 1, "test/accuracy": accuracy}
        decisions.append(scheduler.on_trial_result(None, trial, result))
    assert decisions[0] == decisions[3] == TrialScheduler.CONTINUE
    assert decisions[2] == TrialScheduler.STOP
    plain = parse({"tune": {"scheduler": "none"}}).tune
    assert isinstance(tuner._scheduler(plain, rounds=9), FIFOScheduler)


def test_asha_stops_what_diverges_and_compares_the_others_without_it():
    tune = {"scheduler": "asha", "metric": "test/loss", "baselines": [{"local.lr": 9}]}
    scheduler = tuner._scheduler(parse({"tune": tune}).tune, rounds=9)
    decisions = {}
    for index, loss in ((0, nan), (1, nan), (2, 0.3), (3, inf), (4, 0.2), (5, 0.1), (6, 0.9)):
        trial, _ = tune_trial(index, trial_id=str(index))
        scheduler.on_trial_add(None, trial)
        result = {"round": 1, "test/loss": loss}
        decisions[index] = scheduler.on_trial_result(None, trial, result)
        if decisions[index] == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, result)
    stopped = [index for index, d in decisions.items() if d == TrialScheduler.STOP]
    assert stopped == [1, 3, 6]


def test_a_diverged_trial_is_displayed_as_such():
    config = parse({"tune": {"metric": "test/loss"}})
    spec = TrialSpec.of(config, 4, {"local.lr": 0.1})
    report = TrialReport(2, {"test/accuracy": 0.5, "test/loss": nan}, SUMMARY)
    trial = SimpleNamespace(config=spec.to_tune(), last_result={REPORT: report})
    handler, _, displayed = events("diverged")
    handler.on_trial_complete(0, [], trial)
    line = "diverged: test/loss nan, 50.00 %, upload 2 kB, 1.2 s, stopped after round 2"
    assert displayed == [("finish", "004 lr=0.1", line, None)]
