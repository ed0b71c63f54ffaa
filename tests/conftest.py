"""Fixtures of all tests: a temporary home directory, one Ray cluster, and real data."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
settings.register_profile("default", deadline=None)  # the first example also imports modules
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def home():
    """A temporary home directory, in which Ray keeps its token and data sets their cache."""
    with tempfile.TemporaryDirectory(prefix="fedsmu-home-") as folder:
        before = os.environ.get("HOME")
        os.environ["HOME"] = folder
        yield Path(folder)
        if before is not None:
            os.environ["HOME"] = before


@pytest.fixture
def keep_signal_handlers():
    """Restore the signal handlers that a command replaces where a test calls it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def ray_cluster(home):
    """A local Ray cluster with room for four client actors of a quarter CPU."""
    from fedsmu_ray.executors.ray_cluster import cluster

    with cluster():
        yield


@pytest.fixture
def data_root():
    """The folder of real data, $FEDSMU_DATA."""
    root = os.environ.get("FEDSMU_DATA")
    if not root:
        pytest.skip("needs real data: set FEDSMU_DATA to its folder")
    return Path(root)
