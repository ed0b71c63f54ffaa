"""What MLflow has of a run."""

import warnings


def points(uri, run_id, metric):
    """The history of a metric, with MLflow's own warnings suppressed."""
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return MlflowClient(uri).get_metric_history(run_id, metric)
