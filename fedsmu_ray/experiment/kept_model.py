"""The model of an experiment that has ended: in its folder, and with its tracked run."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsmu_ray import plugins
from fedsmu_ray.errors import ModelFileError
from fedsmu_ray.experiment.model_file import TrainedModel, read_model, save_model, unpacked
from fedsmu_ray.federation.tasks import Executor
from fedsmu_ray.files.remote import Place, place
from fedsmu_ray.files.run_folders import RUN, SWEEP, code_folders
from fedsmu_ray.tracking.base import NewModel, Tracker
from fedsmu_ray.tracking.metrics import final_metrics
from fedsmu_ray.tracking.registry import tracked_model

MODEL_FILE = "model.safetensors"  # in the folder of a run

_KEPT = re.compile(r"model(-\d+)?\.safetensors")  # in the folder of a run or sweep
_RUN_ID = re.compile(r"[0-9a-f]{32}")

log = logging.getLogger(__name__)


def keep_model(
    executor: Executor,
    summary: Mapping[str, Any],
    folder: Place | None,
    tracker: Tracker,
    run_id: str,
) -> None:
    """Keep the trained model of a run, where the configuration says so.

    summary: of the run. folder: of the run, if it has one. A failure is a warning.
    """
    tracking = executor.problem.config.tracking
    if tracking.models == "none" or (folder is None and tracker.uri is None):
        return
    try:
        model = TrainedModel.of(executor.problem, executor.params())
        if tracker.uri is not None:
            tracker.log_model(run_id, new_model(model, summary, tracking.register))
        if folder:
            save_model(folder / MODEL_FILE, model)
    except OSError as error:
        log.warning("the trained model is not in %s (%s)", folder, error)
    except Exception as error:  # of many types: a user's model is built again
        log.warning("the trained model is not kept (%s: %s)", type(error).__name__, error)


def new_model(
    model: TrainedModel, summary: Mapping[str, Any], register: str | None = None
) -> NewModel:
    """A model for a tracker; summary: of its run.

    Raises what building the module of a user's model raises.
    """
    samples, plain = model.samples, model.plain_config()
    method = plain["algorithm"]["name"]
    dtype = np.float32 if samples.symbols is None else np.int64
    return NewModel(
        name=f"{plain['name']}-{method}",
        module=model.module(),
        example=np.zeros((1, *samples.shape), dtype),
        classes=samples.classes,
        file=model.packed(),
        sha256=model.model_sha256,
        dataset=plain["data"]["dataset"],
        data_digest=model.data_digest,
        metrics=final_metrics(summary),
        tags={"fedsmu.method": method, "fedsmu.model": plain["model"]["name"]},
        register=register,
    )


def find_model(given: str, tracking_uri: str) -> TrainedModel:
    """The model in a file, in the folder of a run or sweep, or of a run in MLflow.

    given: a path, a URI, or the id of a run; that of a sweep stands for its best trial.
    tracking_uri: where such runs are. Raises ModelFileError if there is no model, and ConfigError
    if the store does not have the run.
    """
    if _RUN_ID.fullmatch(given) and not Path(given).exists():
        return unpacked(tracked_model(tracking_uri, given), f"the model of run {given}")
    folder = Path(given) if Path(given).is_dir() else place(given)
    if not folder.is_dir():
        return read_model(given)
    files: list[Place] = sorted(
        (file for file in folder.iterdir() if _KEPT.fullmatch(file.name)), key=lambda f: f.name
    )
    if len(files) != 1:
        names = ", ".join(file.name for file in files)
        raise ModelFileError(
            f"{given}: it has several models; give one of {names}"
            if files
            else f"{given}: a folder without a model (see tracking.models)"
        )
    # A model of the user's is imported from where it was when it was trained.
    plugins.search_in([c for kind in (RUN, SWEEP) for c in code_folders(folder / kind.file)])
    return read_model(files[0])
