"""The section `tracking`: where runs are recorded, and what of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray import environment
from fedsmu_ray.config.paths import LocalFolder, StoreURI


@dataclass(frozen=True)
class TrackingConfig:
    """MLflow, and further trackers."""

    uri: Annotated[
        StoreURI | None,
        Field(
            description="MLflow tracking URI, null: no MLflow; default: $MLFLOW_TRACKING_URI, else "
            "sqlite:///mlflow.db"
        ),
    ] = field(default_factory=environment.mlflow_uri, repr=False)  # it may have a password
    experiment: Annotated[
        str,
        Field(description="MLflow experiment; default: $MLFLOW_EXPERIMENT_NAME, else fedsmu"),
    ] = field(default_factory=environment.mlflow_experiment)
    also: Annotated[
        tuple[Literal["csv", "tensorboard", "wandb"], ...],
        Field(description="further trackers that get all runs, several at once"),
    ] = ()
    folder: Annotated[
        LocalFolder,
        Field(description="where those of tracking.also write, each into a folder of its name"),
    ] = "fedsmu_logs"
    models: Annotated[
        Literal["none", "best", "all"],
        Field(
            description="which trained models are kept, in MLflow and in the folder of a run or "
            "sweep: of a sweep the best trial's, or every trial's; `train` keeps its own unless "
            "none"
        ),
    ] = "best"
    register: Annotated[
        str | None,
        Field(
            description="registered model of MLflow of which the model (of a sweep: the best one) "
            "becomes a version; null: it is not registered"
        ),
    ] = None
    system_metrics: Annotated[
        bool,
        Field(
            description="whether the run of `train`, or of a sweep, has the use of its host: CPU, "
            "memory, disk, network, GPUs"
        ),
    ] = False
