"""Which models of a sweep travel to its process, are kept and are logged."""

import math

import numpy as np
import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.model_file import TrainedModel
from fedsmu_ray.experiment.run import run
from fedsmu_ray.sweeps import models as module
from fedsmu_ray.sweeps.folder import SweepFolder, model_file
from fedsmu_ray.sweeps.models import SweepModels
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.tracking.base import NoTracker


class Recording(NoTracker):
    uri = "recording:"

    def __init__(self):
        self.models = {}

    def log_model(self, run_id, model):
        self.models[run_id] = model


@pytest.fixture(scope="module")
def trained():
    """A model file's content, and the summary of its run."""
    result = run(
        parse(
            {
                "data": {"clients": 10},
                "model": {"name": "linear"},
                "local": {"epochs": 1, "batch_size": 50},
                "federation": {"rounds": 1, "cohort": 3},
                "compute": {"executor": "inline"},
                "tracking": {"uri": None},
            }
        )
    )
    return TrainedModel.of(result.problem, result.params).packed(), result.summary


class Sweep:
    """A sweep whose trials end one after the other; `fetched` are the models that travelled."""

    def __init__(self, path, trained, monkeypatch, tune=None, **tracking):
        self.config = config = parse({"tracking": tracking, "tune": tune or {}})
        self.raw, self.summary = trained
        self.fetched, self.folder = [], SweepFolder(path)
        self.models = SweepModels(config, self.folder)
        monkeypatch.setattr(module.ray, "get", self._get)

    def _get(self, index):
        self.fetched.append(index)
        return np.frombuffer(self.raw, np.uint8)

    def end(self, index, score, stopped=False, **params):
        params = params or {"local.lr": 0.001 * (index + 1)}
        spec = TrialSpec.of(self.config, index, params)
        self.folder.trial_started(index, params, f"run{index}")
        if not stopped:
            self.models.offer(spec, score, index)
        sha256 = None if stopped else self.summary["model_sha256"]
        outcome = {**self.summary, "status": "completed", "score": score, "model_sha256": sha256}
        self.folder.trial_ended(index, f"trial {index}", outcome)

    def kept(self):
        return sorted(path.name for path in self.folder.path.glob("model*"))


@pytest.fixture
def sweep(tmp_path, trained, monkeypatch):
    return lambda **options: Sweep(tmp_path, trained, monkeypatch, **options)


def test_only_models_that_may_be_the_best_travel_and_the_best_is_kept(sweep):
    it = sweep()
    for index, score in ((3, 0.5), (1, 0.4), (2, 0.5), (4, math.nan), (5, 0.7), (0, 0.6)):
        it.end(index, score)
    assert it.fetched == [3, 2, 5]  # of equal scores the outcome of a sweep takes the first trial
    assert it.kept() == ["model-005.safetensors"]
    tracker = Recording()
    assert it.models.log(tracker) == model_file(it.folder.path, 5)
    assert [*tracker.models] == ["run5"]
    model = tracker.models["run5"]
    assert model.sha256 == it.summary["model_sha256"] and model.register is None
    assert model.metrics["final/test_accuracy"] == it.summary["test_accuracy"]


def test_a_metric_to_be_minimized(sweep):
    it = sweep(tune={"metric": "test/loss"})
    for index, score in enumerate((0.5, 0.6, 0.4)):
        it.end(index, score)
    assert it.fetched == [0, 2] and it.kept() == ["model-002.safetensors"]


def test_with_seeds_the_best_trial_of_the_best_setting_is_kept(sweep):
    it = sweep(tune={"seeds": 2})
    trials = [(0.1, 0, 0.9), (0.2, 0, 0.7), (0.3, 0, 0.2), (0.1, 1, 0.1), (0.2, 1, 0.6)]
    for index, (lr, seed, score) in enumerate(trials):
        it.end(index, score, **{"local.lr": lr, "seed": seed})
    assert it.fetched == [0, 1, 2]  # of lr=0.2, the best setting, the first seed is better
    assert it.kept() == ["model-001.safetensors", "model-002.safetensors"]
    it.end(5, 0.3, **{"local.lr": 0.3, "seed": 1})
    assert it.fetched == [0, 1, 2] and it.kept()[0] == "model-001.safetensors"
    tracker = Recording()
    assert it.models.log(tracker) == model_file(it.folder.path, 1)
    assert [*tracker.models] == ["run1"]


def test_a_trial_that_was_stopped_has_no_model(sweep):
    it = sweep()
    it.end(0, 0.9, stopped=True)
    it.end(1, 0.5)
    assert it.models.log(Recording()) == model_file(it.folder.path, 1)


def test_all_models_are_kept_and_the_best_is_registered(sweep):
    it = sweep(models="all", register="the best")
    for index, score in enumerate((0.5, 0.6, math.nan)):
        it.end(index, score)
    assert it.fetched == [0, 1, 2] and len(it.kept()) == 3
    tracker = Recording()
    it.models.log(tracker)
    registered = {run_id: model.register for run_id, model in tracker.models.items()}
    assert registered == {"run0": None, "run1": "the best", "run2": None}


def test_without_tracking_the_file_is_all(sweep):
    it = sweep()
    it.end(0, 0.5)
    tracker = Recording()
    tracker.uri = None
    assert it.models.log(tracker) == model_file(it.folder.path, 0) and not tracker.models


def test_a_resumed_sweep_knows_its_best_model(sweep):
    sweep().end(0, 0.5)
    it = sweep()
    it.end(1, 0.4)
    assert it.fetched == [] and it.kept() == ["model-000.safetensors"]
    assert it.models.log(Recording()) == model_file(it.folder.path, 0)
    it.end(2, 0.6)
    assert it.kept() == ["model-002.safetensors"]


def test_a_model_that_is_lost_or_damaged_is_one_warning_each(sweep, monkeypatch, caplog):
    it = sweep(models="all")
    it.end(0, 0.5)

    def lost(reference):
        raise ConnectionError("the node\nwas lost")

    monkeypatch.setattr(module.ray, "get", lost)
    it.end(1, 0.6)
    model_file(it.folder.path, 0).write_bytes(b"damaged")
    tracker = Recording()
    assert it.models.log(tracker) == model_file(it.folder.path, 0) and not tracker.models
    one, two = [record.getMessage() for record in caplog.records]
    assert one == "the model of trial 1 is not kept (ConnectionError: the node was lost)"
    assert two.startswith("the model of trial 0 is not in MLflow (ModelFileError: ")


def test_a_sweep_without_models_has_none(sweep):
    sweep().end(0, 0.5)
    tracker = Recording()
    assert sweep(models="none").models.log(tracker) is None and not tracker.models
