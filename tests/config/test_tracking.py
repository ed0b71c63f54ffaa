"""The section `tracking`: what MLflow's own variables decide, and what keys do."""

import pytest

from fedsmu_ray import load_config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError


def test_keys_win_over_the_variables_of_mlflow_and_these_over_the_defaults(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)

    def found(**given):
        tracking = parse({"tracking": given}).tracking
        return tracking.uri, tracking.experiment

    assert found() == ("sqlite:///mlflow.db", "fedsmu")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert found() == ("databricks", "mine")
    assert found(uri="http://host", experiment="e") == ("http://host", "e")
    assert found(uri=None) == (None, "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert found(experiment="e") == ("sqlite:///mlflow.db", "e")


def test_a_run_that_is_resumed_stays_in_the_store_it_began_in(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://first")
    file = tmp_path / "config.yaml"
    file.write_text(parse({}).anywhere().to_yaml())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://second")
    assert load_config(file).tracking.uri == "http://first"


def test_a_password_in_the_variable_is_in_nothing_that_is_written(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    config = parse({"tracking": {"experiment": "e"}})
    assert "secret" not in config.to_yaml() + repr(config)
    trial = parse(config.without_store_password().source)  # as each trial of a sweep is
    assert (trial.tracking.uri, trial.tracking.experiment) == ("http://me:***@host", "e")


def test_what_other_trackers_there_are(tmp_path):
    own = parse({"tracking": {"also": ["csv", "wandb"], "folder": str(tmp_path)}}).tracking
    assert (own.also, own.folder) == (("csv", "wandb"), str(tmp_path))
    for given, problem in (
        ({"also": ["tensorbord"]}, "tracking.also.*tensorboard"),
        ({"folder": "s3://bucket/logs"}, "tracking.folder = .s3.*must be a folder of a mounted"),
    ):
        with pytest.raises(ConfigError, match=problem):
            parse({"tracking": given})
