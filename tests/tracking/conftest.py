"""Fixtures of the tests that write to MLflow."""

import pytest

from fedsmu_ray.tracking import mlflow as tracking
from tests.helpers.mlflow_runs import connect


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def tracker(store, tmp_path, monkeypatch):
    for name, seconds in (
        ("FLUSH_INTERVAL_S", 0.0),
        ("MAX_RETRY_INTERVAL_S", 0.0),
        ("FINAL_FLUSH_TIMEOUT_S", 0.3),
        ("ABORTED_FLUSH_TIMEOUT_S", 0.1),
    ):
        monkeypatch.setattr(tracking, name, seconds)
    return connect(store, tmp_path)
