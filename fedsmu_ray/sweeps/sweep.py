"""A sweep from start to end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from fedsmu_ray.config.schema import Config
from fedsmu_ray.display.results import print_unfinished
from fedsmu_ray.executors import ray_cluster
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.experiment.tracking import open_tracker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.files.remote import local_place
from fedsmu_ray.files.run_folders import SWEEP, begin
from fedsmu_ray.processes import guard
from fedsmu_ray.sweeps import space
from fedsmu_ray.sweeps.folder import SweepFolder, new_folder, old_folder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.result import SweepResult
from fedsmu_ray.tracking.base import RunStatus
from fedsmu_ray.tracking.registry import check_packages


def sweep(
    config: Config,
    address: str | None = None,
    resume: str | None = None,
    display: bool = False,
    profile: bool = False,
) -> SweepResult:
    """Run every trial of the sweep; the result is a mapping with what `tune --json` prints.

    address: a Ray cluster to join; default: a local one. resume: the folder of an interrupted sweep
    of the same configuration, or "" for the latest one; its completed trials are not run again.
    display: show progress on stderr. profile: measure where the time of a round goes; each trial
    writes a trace into `profile/` in the folder of the sweep. An interrupt or error ends the open
    runs as KILLED or FAILED and is raised again. The folder of the sweep is locked until then:
    LockedError, which names the process, is raised for a sweep that is still running.
    """
    began = time.perf_counter()
    space.check(config)
    check_packages(config.tracking.also, config.tracking.system_metrics)
    with ExitStack() as held:  # the folder of the sweep
        opened = new_folder(config) if resume is None else old_folder(config, resume)
        path = held.enter_context(opened)  # before what takes long, as it may not be writable
        # Loads the data, and raises before anything starts if the model does not fit it.
        dataset = Problem.of(config).dataset
        digest = dataset.digest()
        folder = SweepFolder(path)
        folder.check_data(config, digest)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are displayed already
        # Opening MLflow, importing Tune and starting Ray take seconds each, so all happen at once.
        with ThreadPoolExecutor() as background:
            opening = background.submit(open_tracker, config, local_place(config.tune.storage))
            importing = background.submit(_import_tuner)
            with ray_cluster.cluster(address, config) as where:
                for compute in space.computes(config):
                    backend(compute.executor).check(compute)
                stored = ray_cluster.store(dataset)
                del dataset  # one copy on this node is enough
                run_trials, tracker = importing.result(), opening.result()
                folder.data_loaded(digest)
                recorder = SweepRecorder(config, folder, tracker)
                status: RunStatus = "FAILED"
                guard.note_resume_command(SWEEP.resume_command(folder.path))
                try:
                    begin(SWEEP, folder.path)
                    run_trials(config, recorder, stored, where, display, profile)
                    status = "FINISHED"
                except KeyboardInterrupt:
                    status = "KILLED"
                    raise
                finally:
                    outcome = recorder.close(status, time.perf_counter() - began)
                    if status != "FINISHED" and display:
                        print_unfinished(outcome)
                        print(f"to resume: {SWEEP.resume_command(folder.path)}", file=sys.stderr)
                return SweepResult(outcome, folder.ended)


def _import_tuner() -> Callable[[Config, SweepRecorder, list[Any], str, bool, bool], None]:
    from fedsmu_ray.sweeps.tuner import run_trials

    return run_trials
