"""A sweep from its configuration to its outcome."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fedsmu_ray.config.validation import Config
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.executors import ray_cluster
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.sweeps import space
from fedsmu_ray.sweeps.folder import find_folder
from fedsmu_ray.tracking import mlflow as tracking


def sweep(
    config: Config, address: str | None = None, resume: str | None = None, display: bool = False
) -> dict[str, Any]:
    """Run every trial of the configuration's search; returns what `tune --json` prints.

    address: a Ray cluster to join; default: one on this machine. resume: the folder of an interrupted sweep of the
    same configuration, or "" for the latest one; trials it completed are not run again. display: show progress on
    stderr. An interrupt ends the runs in MLflow as KILLED and is raised again.
    """
    began = time.perf_counter()
    space.check(config)
    folder = find_folder(config, resume)
    dataset = load_dataset(config.data)
    Problem.of(
        config, dataset
    )  # refuses a model that does not fit the data, before anything starts
    logging.getLogger("ray.tune").setLevel(
        logging.CRITICAL
    )  # a failed trial is reported once, by the display
    # MLflow and Tune take seconds to open and to import, and so does Ray to start: all at once.
    with ThreadPoolExecutor() as aside:
        opening, tune = (
            aside.submit(tracking.open_tracker, config.tracking, config.tune.storage),
            aside.submit(_tune),
        )
        with ray_cluster.cluster(address) as where:
            if config.compute.executor == "ray":
                ray_cluster.check_actors(config.compute, address)
            stored = ray_cluster.store(dataset)
            del dataset  # the trials' copy is enough for a node
            SweepRecorder, fit = tune.result()
            book = SweepRecorder(config, folder, opening.result())
            try:
                fit(config, book, folder, stored, where, display)
            except BaseException as error:
                book.close(
                    "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED",
                    time.perf_counter() - began,
                )
                raise
            return book.close("FINISHED", time.perf_counter() - began)


def _tune() -> tuple[Any, Any]:
    from fedsmu_ray.sweeps.recorder import SweepRecorder
    from fedsmu_ray.sweeps.tuner import fit

    return SweepRecorder, fit
