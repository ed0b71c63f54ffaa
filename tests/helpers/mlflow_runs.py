"""Runs for the MLflow tracker, a client that can lose its store, and what a store holds."""

from fedsmu_ray.tracking.base import NewRun
from fedsmu_ray.tracking.registry import open_tracker

PARAMS = {"federation.rounds": "40"}
FILES = {"config.yaml": "federation: {rounds: 40}"}


def new_run(name, tags=None, parent=None):
    return NewRun(name, PARAMS, tags or {}, FILES, parent)


class Connection:
    """A client whose store can be unreachable.

    With `is_up` False every call raises; with `loses_responses` it is executed and then raises.
    """

    def __init__(self, client):
        self.client, self.is_up, self.loses_responses, self.calls = client, True, False, 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            if not self.is_up:
                raise ConnectionError("connection refused")
            response = getattr(self.client, name)(*args, **kwargs)
            if self.loses_responses:
                raise ConnectionError("the response was lost")
            return response

        return call


def connect(uri, folder):
    """Open a tracker whose client is a Connection, as another process would."""
    opened = open_tracker(uri, folder.name, folder)
    opened.writer.client = Connection(opened.writer.client)
    return opened


def values(step):
    return {"train/loss": 1 / step, "test/accuracy": step / 100}


def held(tracker):
    """The content of the store by run name.

    Each value is (status, parameters, tags, {metric: [(step, value)]}, config.yaml or None).
    """
    client = tracker.writer.client.client
    out = {}
    for run in client.search_runs([tracker.writer.experiment_id]):
        run_id = run.info.run_id
        history = {
            k: [(m.step, m.value) for m in client.get_metric_history(run_id, k)]
            for k in run.data.metrics
        }
        files = [f.path for f in client.list_artifacts(run_id)]
        assert run.info.run_name not in out
        out[run.info.run_name] = run.info.status, run.data.params, run.data.tags, history, files
    return out


def points(steps):
    return {
        "train/loss": [(s, 1 / s) for s in steps],
        "test/accuracy": [(s, s / 100) for s in steps],
    }
