"""What MLflow has of the runs of a store."""

import warnings


def client_of(uri):
    """A client of a store, without MLflow's own warnings."""
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return MlflowClient(uri)


def points(uri, run_id, metric):
    """The history of a metric."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return client_of(uri).get_metric_history(run_id, metric)


def runs_of(uri):
    """The runs of the experiment `fedsmu`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = client_of(uri)
        experiment = client.get_experiment_by_name("fedsmu")
        return client.search_runs([experiment.experiment_id]) if experiment else []


def have_points(uri):
    """Whether a run of the experiment has a metric."""
    return any(run.data.metrics for run in runs_of(uri))
