"""Runs the remaining trials of a sweep with Ray Tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from fedsmu_ray import environment
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.display.progress import SweepProgress
from fedsmu_ray.executors.ray_nodes import this_node
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.sweeps.events import TRIAL_RETRIES, TrialEvents
from fedsmu_ray.sweeps.folder import tune_folder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.schedulers import scheduler
from fedsmu_ray.sweeps.searcher import TrialSearcher, trial_searcher
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import Trial, resources

# Trials that wait for resources at once: as many as a cluster may have room for, since its
# autoscaler counts them; few for Optuna, whose suggestions improve with the number of results.
PENDING_TRIALS, PENDING_TRIALS_OPTUNA = 32, 2


def run_trials(
    config: Config,
    recorder: SweepRecorder,
    dataset: list[Any],
    where: str,
    display: bool,
    profile: bool,
) -> None:
    """Have Tune run the remaining trials of a sweep.

    dataset: the reference to the data set (see `ray_cluster.store`). where: the cluster, for the
    display. profile: whether the trials leave traces.
    """
    searcher, done = trial_searcher(config, recorder.folder), len(recorder.folder.ended)
    total, rounds = done + searcher.remaining, config.federation.rounds
    with SweepProgress(config.name, total, done, rounds, where, display) as progress:
        if not searcher.remaining:
            return
        folder, path = recorder.folder.path, tune_folder(recorder.folder.path)
        shared = str(path if isinstance(folder, Path) else folder)  # what the trials write
        trainable = tune.with_parameters(
            Trial,
            data=config.data,
            dataset=dataset,
            folder=shared,
            node=this_node(),
            software=versions(),
            profiled=profile,
        )
        environment.limit_pending_trials(
            PENDING_TRIALS_OPTUNA if searcher.study else PENDING_TRIALS
        )
        tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=_tune_config(config.tune, searcher, scheduler(config.tune, rounds)),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(path),
                callbacks=[TrialEvents(recorder, progress, config.compute.wait_s)],
                verbose=0,
                progress_reporter=tune.CLIReporter(),  # in a notebook another one displays
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            ),
        ).fit()


def _tune_config(
    settings: TuneConfig, searcher: TrialSearcher, chosen: TrialScheduler
) -> tune.TuneConfig:
    return tune.TuneConfig(
        search_alg=searcher,
        scheduler=chosen,
        num_samples=searcher.remaining,
        reuse_actors=True,
        max_concurrent_trials=settings.concurrent,
        trial_name_creator=_trial_folder,
        trial_dirname_creator=_trial_folder,
    )


def _trial_folder(trial: TuneTrial) -> str:
    return f"trial-{TrialSpec.from_tune(trial.config).index:03d}"
