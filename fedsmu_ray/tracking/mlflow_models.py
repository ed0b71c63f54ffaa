"""Models of runs in MLflow: a LoggedModel each, which `mlflow.pytorch.load_model` loads.

Beside what MLflow makes of it (it pickles modules), each has the model file itself, which loads
without running code.
"""

from __future__ import annotations

import inspect
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError, ModelFileError
from fedsmu_ray.files.secrets import cut
from fedsmu_ray.tracking.base import NewModel, absolute_uri
from fedsmu_ray.tracking.mlflow_names import MAX_NAME, accepted_name, shortened
from fedsmu_ray.tracking.mlflow_store import first_line
from fedsmu_ray.tracking.pending import now

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

FILE = "model.safetensors"
SHA256, DATA_DIGEST = "model_sha256", "fedsmu.data_digest"  # tags of a logged model
BEST_RUN = "fedsmu.best_run"  # tag of the run of a sweep: the run of its best trial
_MODEL_NAME = re.compile(r"[/:.%\"']")  # characters that the name of a logged model may not have


class SavingError(Exception):
    """A model that cannot be saved at all, as of a class that cannot be pickled."""


def write_model(client: MlflowClient, experiment_id: str, run_id: str, model: NewModel) -> None:
    """Log the model of a run, and register it if it says so.

    Both may be repeated. Raises SavingError, and what the client raises.
    """
    logged = _find(client, experiment_id, run_id, model.sha256)
    if logged is None or logged.status != "READY":
        logged = _log(client, experiment_id, run_id, model, logged)
    if model.register:
        _register(client, model.register, run_id, logged)


def _find(client: MlflowClient, experiment_id: str, run_id: str, sha256: str) -> LoggedModel | None:
    """The logged model of a run; it may be incomplete, if what has logged it was interrupted."""
    of_run = _of_run(client, experiment_id, run_id)
    return next((each for each in of_run if each.tags.get(SHA256) == sha256), None)


def _of_run(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    query = f"source_run_id = '{run_id}'"
    return list(client.search_logged_models([experiment_id], query))


def _log(
    client: MlflowClient,
    experiment_id: str,
    run_id: str,
    model: NewModel,
    begun: LoggedModel | None,
) -> LoggedModel:
    """Log a model; begun: what an interrupted attempt has left of it."""
    from mlflow.entities import LoggedModelOutput, Metric

    tags = {**model.tags, SHA256: model.sha256, DATA_DIGEST: model.data_digest}
    name = shortened(_MODEL_NAME.sub("_", model.name), MAX_NAME)
    logged = begun or client.create_logged_model(experiment_id, name, run_id, tags)
    with tempfile.TemporaryDirectory(prefix="fedsmu-model-") as folder:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow's, of its own modules
                _save(model, logged, run_id, Path(folder))
        except Exception as error:  # of many types: pickling runs the user's code
            raise SavingError(f"{type(error).__name__}: {error}") from error
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    time = now()
    metrics = [
        Metric(
            accepted_name(key),
            value,
            time,
            0,
            logged.model_id,
            model.dataset,
            model.data_digest,
            run_id,
        )
        for key, value in model.metrics.items()
    ]
    client.log_batch(run_id, metrics=metrics)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    ready: LoggedModel = client.finalize_logged_model(logged.model_id, "READY")
    return ready


def _save(model: NewModel, logged: LoggedModel, run_id: str, folder: Path) -> None:
    """Save a model as MLflow has it in `folder`/model."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs = TensorSpec(model.example.dtype, (-1, *model.example.shape[1:]))
    outputs = TensorSpec(np.dtype(np.float32), (-1, model.classes))
    options: dict[str, Any] = {}
    if "serialization_format" in inspect.signature(mlflow.pytorch.save_model).parameters:
        options["serialization_format"] = "pickle"  # takes any module; so did earlier versions
    mlflow.pytorch.save_model(
        model.module,
        folder / "model",
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        ),
        signature=ModelSignature(Schema([inputs]), Schema([outputs])),
        input_example=model.example,
        # Given, since MLflow would load the model in another process to infer them.
        pip_requirements=[_pinned("torch", torch), _pinned("numpy", np)],
        **options,
    )
    (folder / "model" / FILE).write_bytes(model.file)


def _pinned(name: str, module: Any) -> str:
    return f"{name}=={str(module.__version__).partition('+')[0]}"


def _register(client: MlflowClient, name: str, run_id: str, logged: LoggedModel) -> None:
    """Make a logged model a version of a registered model, unless it is one."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not models:/<id>, which a client looks up in the default store and not in its own.
    location = logged.artifact_location
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    if not any((each.name, each.source) == (name, location) for each in versions):
        client.create_model_version(name, location, run_id, model_id=logged.model_id)


def download(uri: str, run_id: str) -> bytes:
    """The content of the model file of a run, or of the best trial of a sweep's run.

    Raises ConfigError if the store does not have the run or cannot be read, and ModelFileError if
    the run has no model.
    """
    environment.set_mlflow_defaults()
    from mlflow import MlflowClient, artifacts

    uri = absolute_uri(uri)
    try:
        client = MlflowClient(uri)
        run: Run = client.get_run(run_id)
        best = run.data.tags.get(BEST_RUN, run_id)
        of_run = _of_run(client, run.info.experiment_id, best)
        ready = [each for each in of_run if each.status == "READY" and SHA256 in each.tags]
        if not ready:
            raise ModelFileError(f"run {run_id}: it has no model in MLflow (tracking.models)")
        with tempfile.TemporaryDirectory(prefix="fedsmu-model-") as folder:
            location = f"{ready[-1].artifact_location}/{FILE}"
            path = artifacts.download_artifacts(location, dst_path=folder, tracking_uri=uri)
            return Path(path).read_bytes()
    except ModelFileError:
        raise
    except Exception as error:  # each kind of store has its own exceptions
        raise ConfigError(
            [f"run {run_id} in MLflow at {cut(uri)}: {first_line(error, uri)}"]
        ) from None
