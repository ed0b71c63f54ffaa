"""Which trackers a configuration asks for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fedsmu_ray.environment import results_path, wandb_uploads
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files.secrets import cut
from fedsmu_ray.tracking.base import NoTracker, TrackedRun, Tracker, database_file
from fedsmu_ray.tracking.several import SeveralTrackers

# Names of `tracking.also`, and the package that each needs, which is also our extra.
PACKAGES = {"csv": "", "tensorboard": "tensorboard", "wandb": "wandb"}


def check_packages(also: Sequence[str], system_metrics: bool = False) -> None:
    """Raise ConfigError if a package that tracking needs is not installed.

    Also if Weights & Biases has no key.
    """
    if system_metrics and find_spec("psutil") is None:
        raise ConfigError(
            ["tracking.system_metrics = true: needs the package psutil; pip install psutil"]
        )
    missing = [name for name in also if PACKAGES[name] and find_spec(PACKAGES[name]) is None]
    if missing:
        raise ConfigError(
            [
                f"tracking.also = {name}: the package is not installed; pip install "
                f"'fedsmu-ray[{name}]'"
                for name in missing
            ]
        )
    if "wandb" in also:
        from fedsmu_ray.tracking.wandb import check_key

        check_key()


def open_tracker(
    uri: str | None,
    experiment: str,
    folder: str | Path = ".",
    also: Sequence[str] = (),
    also_in: str | Path = ".",
) -> Tracker:
    """The tracker for a tracking URI: MLflow, or `NoTracker` for None (or an empty URI).

    Creates the store and the experiment if they do not exist. folder: receives a file with
    everything that could not be written to the store. also: further trackers, each with a folder in
    `also_in`, see `also_places`. Raises ConfigError if a store cannot be opened.
    """
    first: Tracker = NoTracker()
    if uri:
        from fedsmu_ray.tracking.mlflow import MLflowTracker

        first = MLflowTracker(uri, experiment, folder)
    others = {name: _open(name, path, experiment) for name, path in _places(also, also_in).items()}
    return SeveralTrackers(first, others) if others else first


def _open(name: str, folder: Path, experiment: str) -> Tracker:
    if name == "csv":
        from fedsmu_ray.tracking.csv_files import CSVTracker

        return CSVTracker(folder)
    if name == "tensorboard":
        from fedsmu_ray.tracking.tensorboard import TensorBoardTracker

        return TensorBoardTracker(folder)
    from fedsmu_ray.tracking.wandb import WandbTracker

    return WandbTracker(folder, experiment)


def _places(also: Sequence[str], folder: str | Path) -> dict[str, Path]:
    """The folder of each further tracker, by name."""
    return {name: results_path(folder).absolute() / name for name in also}


def also_places(also: Sequence[str], folder: str | Path) -> dict[str, str]:
    """How to look at what each further tracker has written, by name: a folder or a command."""
    viewers = {
        "csv": "{}",
        "tensorboard": "tensorboard --logdir {}",
        "wandb": "https://wandb.ai" if wandb_uploads() else "wandb sync {}/offline-run-*",
    }
    places = _places(also, folder)
    return {name: viewers[name].format(shlex.quote(str(path))) for name, path in places.items()}


def tracked_model(uri: str, run_id: str) -> bytes:
    """The content of the model file that was logged with a run (of a sweep: its best trial's).

    Raises ConfigError if the store cannot be opened or has no such run, and ModelFileError if the
    run has no model.
    """
    _check_exists(uri)
    from fedsmu_ray.tracking.mlflow_models import download

    return download(uri, run_id)


def tracked_sweep(uri: str, run_id: str) -> tuple[TrackedRun, list[TrackedRun]]:
    """The run of a sweep and those of its trials, the oldest first; a run alone has none.

    Raises ConfigError if the store cannot be read or has no such run.
    """
    _check_exists(uri)
    from fedsmu_ray.tracking import mlflow_runs

    return mlflow_runs.sweep(uri, run_id)


def tracked_experiment(uri: str, name: str) -> list[TrackedRun]:
    """All runs of an experiment but those of sweeps, which have no rounds; the oldest first.

    Raises ConfigError if the store cannot be read or has no such experiment.
    """
    _check_exists(uri)
    from fedsmu_ray.tracking import mlflow_runs

    return mlflow_runs.experiment(uri, name)


def _check_exists(uri: str) -> None:
    """Raise ConfigError for a database that does not exist, which MLflow would create."""
    path = database_file(uri)
    if path and not path.exists():
        raise ConfigError([f"tracking.uri = '{cut(uri)}': there is no such database"])
