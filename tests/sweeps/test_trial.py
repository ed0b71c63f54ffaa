"""A trial as Tune drives it: step by step, then reset for the next one in the same process."""

import gc
import json
import math
import os
import re
import socket
import weakref

import pytest
import ray
import torch
from ray import tune
from ray._private.worker import global_worker
from ray.tune.utils.util import flatten_dict

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import BrokenGPUError
from fedsmu_ray.executors import ray_cluster, ray_data
from fedsmu_ray.executors.ray_data import load_on, this_node
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.experiment.run import run
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.sweeps import trial as trials
from fedsmu_ray.sweeps.failures import TrialFailure
from fedsmu_ray.sweeps.folder import traces
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import REPORT, Trial, TrialReport, report_of, resources
from fedsmu_ray.tracking.metrics import GENERAL

CONFIG = parse(
    {
        "data": {"clients": 10},
        "model": {"hidden": [8]},
        "local": {"epochs": 1, "lr": 0.2},
        "federation": {"rounds": 4, "cohort": 3, "eval_every": 2},
        "compute": {"executor": "inline"},
        "tracking": {"uri": None},
    }
)


def make_trial(folder, spec, **more):
    """A trial in this process, with the parameters that the sweep passes."""
    stored = ray_cluster.store(Problem.of(CONFIG).dataset)
    trainable = tune.with_parameters(
        Trial,
        data=CONFIG.data,
        dataset=stored,
        folder=str(folder),
        node=this_node(),
        **{"software": versions(), **more},
    )
    return trainable(config=spec.to_tune())


def undisturbed(params):
    return run(TrialSpec.of(CONFIG, 0, params).config).summary


def unmeasured(summary):
    """A summary without its time, and without what only the summary of a single run has."""
    others = ("nodes", "seconds", "run_id", "tracking_uri", "not_in_mlflow", "also_tracked")
    return {key: value for key, value in summary.items() if key not in others}


def test_every_step_is_an_evaluated_round_and_the_last_has_the_summary_of_a_run(
    ray_cluster, tmp_path
):
    """Two trials one after another in one process; the second has different data."""
    for params in ({"local.lr": 0.1}, {"data.dataset": "synthetic", "model.hidden": [4]}):
        spec = TrialSpec.of(CONFIG, 1, params)
        if params == {"local.lr": 0.1}:
            trial = make_trial(tmp_path, spec)
        else:
            assert trial.reset(spec.to_tune())
        results = [trial.train() for _ in range(2)]
        assert [r["round"] for r in results] == [2, 4]
        assert [r["done"] for r in results] == [False, True]
        for result in results:
            report = report_of(result)
            assert isinstance(report, TrialReport) and report.round == result["round"]
            assert {k: result[k] for k in report.metrics} == report.metrics
            measured = {m.name for m in GENERAL if not m.omit_zero and "val/" not in m.name}
            assert set(report.metrics) == measured
        first, last = (report_of(r).summary for r in results)
        assert first["model_sha256"] is None and first["rounds"] == 2
        assert unmeasured(last) == unmeasured(undisturbed(params))
    trial.stop()


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_the_data_of_a_trial_go_before_those_of_the_next_are_loaded(
    executor, ray_cluster, tmp_path, monkeypatch
):
    own = {"data.dataset": "synthetic", "compute.executor": executor}
    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 1, own))
    trial.train()
    data, found = weakref.ref(trial.problem.dataset), []

    def load(*arguments):
        found.append(data())
        if executor == "ray":
            (actor,) = trial.executor.clients.actors
            found.append(ray.get(actor.__ray_call__.remote(lambda own: vars(own).get("worker"))))
        return load_on(*arguments)

    monkeypatch.setattr(trials, "load_on", load)
    assert trial.reset(TrialSpec.of(CONFIG, 2, own).to_tune())
    assert found and found == [None] * len(found)
    trial.stop()


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_data_from_another_node_are_released_when_the_trial_ends(
    executor, ray_cluster, tmp_path, monkeypatch
):
    node, stored = this_node(), []

    def load(home, data, folder):
        loaded = load_on(node, data, folder)
        stored.append(loaded[1].hex().encode())
        return loaded

    monkeypatch.setattr(ray_data, "this_node", lambda: "another")
    monkeypatch.setattr(trials, "load_on", load)
    own = {"data.dataset": "synthetic", "compute.executor": executor}
    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 1, own))
    trial.train()
    references = global_worker.core_worker.get_all_reference_counts
    assert (stored[0] in references()) or executor == "inline"
    assert trial.reset(TrialSpec.of(CONFIG, 2, {"compute.executor": executor}).to_tune())
    trial.train()
    gc.collect()
    assert len(stored) == 1 and stored[0] not in references()
    trial.stop()


def test_profiled_trials_leave_traces_however_they_end(ray_cluster, tmp_path):
    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 0, {}), profiled=True)
    trial.train()
    assert report_of(trial.train()).summary["model_sha256"] == undisturbed({})["model_sha256"]
    completed = {"trial-000.json": [1, 2, 3, 4]}
    assert rounds_in_traces(tmp_path) == completed
    assert trial.reset(TrialSpec.of(CONFIG, 1, {}).to_tune())
    trial.train()
    assert rounds_in_traces(tmp_path) == completed
    assert trial.reset(TrialSpec.of(CONFIG, 2, {"local.lr": 1e30}).to_tune())
    trial.train()
    assert trial.reset(TrialSpec.of(CONFIG, 1000, {}).to_tune())
    trial.train()
    trial.stop()
    # The round after the last one of a trial that is stopped has begun.
    ended = {"trial-001.json": [1, 2, 3], "trial-002.json": [1], "trial-1000.json": [1, 2, 3]}
    assert rounds_in_traces(tmp_path) == completed | ended


def rounds_in_traces(folder):
    return {
        file.name: [
            event["args"]["round"]
            for event in json.loads(file.read_text())["traceEvents"]
            if event["name"] == "round"
        ]
        for file in traces(folder)
    }


def test_a_trial_that_diverges_ends_and_its_process_runs_the_next_one(ray_cluster, tmp_path):
    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 0, {"local.lr": 1e30}))
    result = trial.train()
    report = report_of(result)
    assert result["done"] and isinstance(report, TrialFailure)
    assert report.error.startswith("LocalDivergenceError: round 1, client") and report.diverged
    assert trial.reset(TrialSpec.of(CONFIG, 1, {}).to_tune())
    trial.train()
    assert report_of(trial.train()).summary["model_sha256"] == undisturbed({})["model_sha256"]
    trial.stop()


def test_a_process_that_cannot_use_its_gpu_ends(ray_cluster, tmp_path, monkeypatch):
    """What a trial raises makes Tune start it again in a new process."""

    def broken(*arguments):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 0, {}))
    monkeypatch.setattr(ClientWorker, "train", broken)
    with pytest.raises(BrokenGPUError, match="unspecified launch failure"):
        trial.train()
    trial.stop()


def test_a_trial_continues_from_its_checkpoint(ray_cluster, tmp_path):
    spec = TrialSpec.of(CONFIG, 7, {"checkpoint.every": 1})
    trial = make_trial(tmp_path, spec)
    assert report_of(trial.train()).apart == socket.gethostname()  # there is no sweep.yaml
    assert (tmp_path / "checkpoint-007" / "checkpoint.json").exists()
    trial.stop()
    (tmp_path / "sweep.yaml").touch()
    again = make_trial(tmp_path, spec)  # as after its process was lost
    reports = [report_of(again.train()) for _ in range(2)]
    assert [r.round for r in reports] == [2, 4]  # evaluated rounds are reported once more
    assert [r.apart for r in reports] == ["", ""]
    assert reports[1].summary["model_sha256"] == undisturbed({})["model_sha256"]
    again.stop()


@pytest.mark.parametrize(
    "compute, bundles",
    [
        ({"executor": "inline", "cpus_per_actor": 0.5}, [{"CPU": 0.5}]),
        ({"executor": "ray"}, [{}, {"CPU": 1.0}]),
        (
            {"executor": "ray", "actors": 2, "gpus_per_actor": 0.25},
            [{}, {"CPU": 1.0, "GPU": 0.25}, {"CPU": 1.0, "GPU": 0.25}],
        ),
    ],
)
def test_a_trial_reserves_a_bundle_per_client_actor(compute, bundles):
    params = {f"compute.{key}": value for key, value in compute.items()}
    group = resources(TrialSpec.of(CONFIG, 0, params).to_tune())
    assert group == tune.PlacementGroupFactory(bundles, strategy="PACK")


def test_tune_does_not_flatten_a_report():
    """Tune flattens mappings in results and would treat every number in them as a metric."""
    result = {REPORT: TrialReport(2, {"test/loss": 1.0}, {"rounds": 2})}
    assert flatten_dict(result) == result


@pytest.mark.parametrize(
    "break_it, error",
    [
        ({"data.dataset": "npz", "data.root": "nowhere.npz"}, "ConfigError: .*nowhere.npz"),
        (ZeroDivisionError("in the engine"), "ZeroDivisionError: in the engine"),
    ],
    ids=str,
)
def test_what_preparing_a_trial_raises_is_its_failure(
    ray_cluster, tmp_path, monkeypatch, break_it, error
):
    """Told with host and process and not tried again; the process runs the next trial."""
    good = TrialSpec.of(CONFIG, 0, {})
    spec = TrialSpec.of(CONFIG, 1, {} if isinstance(break_it, Exception) else break_it)
    with monkeypatch.context() as patched:
        if isinstance(break_it, Exception):

            def load(*arguments):
                raise break_it

            patched.setattr("fedsmu_ray.executors.inline.InlineExecutor.load", load)
        trial = make_trial(tmp_path, spec)
        result = trial.train()
    failure = report_of(result)
    assert result["done"] and isinstance(failure, TrialFailure) and not failure.diverged
    place = rf"\(on {re.escape(socket.gethostname())}, process {os.getpid()}\)"
    assert re.fullmatch(rf"{error}.* {place}", failure.error, re.DOTALL), failure.error
    assert bool(failure.traceback) == isinstance(break_it, Exception)
    assert trial.reset_config(good.to_tune())
    assert report_of(trial.train()).round == 2
    trial.cleanup()


def test_what_may_not_happen_in_another_process_ends_this_one(ray_cluster, tmp_path, monkeypatch):
    def load(*arguments):
        raise ray.exceptions.ObjectLostError("ab" * 28, None, "")

    monkeypatch.setattr("fedsmu_ray.executors.inline.InlineExecutor.load", load)
    with pytest.raises(ray.exceptions.ObjectLostError):
        make_trial(tmp_path, TrialSpec.of(CONFIG, 0, {}))


def test_a_trial_on_a_node_with_other_software_fails_by_name(ray_cluster, tmp_path):
    other = {**versions(), "torch": "2.11.0+other"}
    trial = make_trial(tmp_path, TrialSpec.of(CONFIG, 0, {}), software=other)
    error = report_of(trial.train()).error
    expected = f"torch {torch.__version__} instead of 2.11.0+other: the result would depend"
    assert expected in error and f"(on {socket.gethostname()}, process " in error


@pytest.mark.parametrize("every", [None, 1])
def test_a_trial_that_federation_stop_ends_is_done_at_that_round(ray_cluster, tmp_path, every):
    """Resumed after its end, too."""
    own = {"federation.stop.metric": "train/loss", "federation.stop.target": 100.0}
    own |= {"federation.rounds": 8, "federation.stop.min_rounds": 3, "checkpoint.every": every}
    spec = TrialSpec.of(CONFIG, 1, own)
    expected = unmeasured(undisturbed({"federation.rounds": 4}))
    (tmp_path / "sweep.yaml").touch()
    for _ in range(2):
        trial = make_trial(tmp_path, spec)
        results = [trial.train() for _ in range(2)]
        assert [(r["round"], r["done"]) for r in results] == [(2, False), (4, True)]
        found = unmeasured(report_of(results[-1]).summary)
        assert found.pop("stopped").startswith("train/loss = ")
        assert found == expected
        trial.stop()


def test_the_metric_of_a_target_is_nan_until_it_is_reached(ray_cluster, tmp_path):
    plain = CONFIG.to_dict()
    plain["federation"] |= {"targets": [0.001, 1.0], "eval_every": 1}
    for target, known in (("0.001", True), ("1", False)):
        plain["tune"]["metric"] = metric = f"target/{target}/total_bytes"
        trial = make_trial(tmp_path, TrialSpec.of(parse(plain), 0, {}))
        last = [trial.train() for _ in range(4)][-1]
        report = report_of(last)
        assert metric not in report.metrics
        summary = report.summary[f"total_bytes_to_{target}"]
        assert last[metric] == summary if known else math.isnan(last[metric]) and summary is None
        trial.stop()


@pytest.mark.parametrize("method", ["fedsmu", "dlion"])
def test_a_trial_goes_on_after_a_pause_in_another_process_with_the_same_bits(
    ray_cluster, tmp_path, method
):
    """After it, only rounds that the sweep does not know are reported."""
    plain = {**CONFIG.to_dict(), "algorithm": {"name": method}}
    plain["tune"]["scheduler"] = "hyperband"
    config = parse(plain)
    spec, other = (TrialSpec.of(config, i, {"local.lr": 0.1 * (i + 1)}) for i in range(2))
    (tmp_path / "sweep.yaml").touch()
    trial = make_trial(tmp_path, spec)
    assert trial.train()["round"] == 2
    saved = trial.save()
    assert trial.reset(other.to_tune())  # another one takes the process
    trial.train()
    again = make_trial(tmp_path, spec)
    again.restore(saved)
    result = again.train()
    assert (result["round"], result["done"]) == (4, True)
    assert unmeasured(report_of(result).summary) == unmeasured(run(spec.config).summary)
    trial.stop()
    again.stop()
