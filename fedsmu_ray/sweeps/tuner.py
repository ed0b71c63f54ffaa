"""Runs the remaining trials of a sweep with Ray Tune."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from fedsmu_ray import environment
from fedsmu_ray.config.schema import Config, TuneConfig
from fedsmu_ray.display.progress import SweepProgress
from fedsmu_ray.executors.ray_nodes import this_node
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.sweeps.events import TRIAL_RETRIES, TrialEvents
from fedsmu_ray.sweeps.folder import tune_folder
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.searcher import TrialSearcher, trial_searcher
from fedsmu_ray.sweeps.settings import setting_key
from fedsmu_ray.sweeps.space import TrialSpec, seed_count
from fedsmu_ray.sweeps.trial import ROUND, Trial, resources
from fedsmu_ray.tracking.metrics import is_finite

# Trials that wait for resources at once: as many as a cluster may have room for, since its
# autoscaler counts them; few for Optuna, whose suggestions improve with the number of results.
PENDING_TRIALS, PENDING_TRIALS_OPTUNA = 32, 2
# ASHA: of the trials at a rung, one in three is continued; the first rung is at a ninth of the
# rounds.
ASHA_FACTOR = 3


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
            tune_config=_tune_config(config.tune, searcher, _scheduler(config.tune, rounds)),
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
    settings: TuneConfig, searcher: TrialSearcher, scheduler: TrialScheduler
) -> tune.TuneConfig:
    return tune.TuneConfig(
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=searcher.remaining,
        reuse_actors=True,
        max_concurrent_trials=settings.concurrent,
        trial_name_creator=_trial_folder,
        trial_dirname_creator=_trial_folder,
    )


def _trial_folder(trial: TuneTrial) -> str:
    return f"trial-{TrialSpec.from_tune(trial.config).index:03d}"


def _scheduler(settings: TuneConfig, rounds: int) -> TrialScheduler:
    if settings.scheduler == "none":
        return FIFOScheduler()
    seeds = seed_count(settings)
    return SettingsASHA(
        len(settings.baselines) * seeds,
        time_attr=ROUND,
        metric=settings.metric,
        mode=settings.direction,
        max_t=rounds,
        grace_period=max(1, rounds // ASHA_FACTOR**2),
        reduction_factor=ASHA_FACTOR,
    )


class SettingsASHA(ASHAScheduler):
    """ASHA (Li et al., MLSys 2020) over settings: a trial has the mean score of its seeds so far.

    It never stops the baselines, since a comparison needs all their rounds, and stops a setting of
    which a trial has diverged: a score of NaN is neither above nor below the others, so ASHA itself
    would continue it. What has stopped one trial of a setting stops the others at the same round.
    """

    def __init__(self, baselines: int, **options: Any) -> None:
        """baselines: how many trials, from the first one on, are never stopped."""
        super().__init__(**options)
        self.baselines = baselines
        # By setting and round: those of its trials, by index.
        self.scores: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        self.stopped: dict[str, int] = {}  # the round in which a setting was stopped

    def on_trial_result(
        self,
        tune_controller: Any,
        trial: TuneTrial,
        result: dict[str, Any],
    ) -> str:
        """Whether a trial is continued."""
        spec, score, round = TrialSpec.from_tune(trial.config), result[self.metric], result[ROUND]
        if spec.index < self.baselines:
            return str(TrialScheduler.CONTINUE)
        setting = setting_key(spec.params)
        if not is_finite(score) or round >= self.stopped.get(setting, math.inf):
            decision = TrialScheduler.STOP
        else:
            scores = self.scores[setting, round]
            scores[spec.index] = score
            mean = {**result, self.metric: fmean(scores.values())}
            decision = super().on_trial_result(tune_controller, trial, mean)
        if decision == TrialScheduler.STOP and round < self._max_t:
            self.stopped[setting] = min(round, self.stopped.get(setting, round))
        return str(decision)

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Note the last score of a trial, if it has one to compare others with."""
        if is_finite(result.get(self.metric)):
            super().on_trial_complete(tune_controller, trial, result)
