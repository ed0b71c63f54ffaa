"""Runs the remaining trials of a sweep with Ray Tune."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from fedsmu_ray import environment
from fedsmu_ray.config.schema import Config, TuneConfig
from fedsmu_ray.display.formatting import dropped_note, percent, size
from fedsmu_ray.display.progress import SweepProgress
from fedsmu_ray.executors.ray_data import this_node
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.sweeps.recorder import COMPLETED, DIVERGED, SweepRecorder
from fedsmu_ray.sweeps.searcher import TrialSearcher, trial_searcher
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import ROUND, Trial, TrialFailure, TrialReport, report_of, resources
from fedsmu_ray.tracking.metrics import is_finite

# Of a trial whose process was lost: it resumes from its checkpoint, or starts again if it has none.
TRIAL_RETRIES = 2
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
        path = str(recorder.folder.path.absolute())
        trainable = tune.with_parameters(
            Trial,
            data=config.data,
            dataset=dataset,
            folder=path,
            node=this_node(),
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
                storage_path=path,
                callbacks=[TrialEvents(recorder, progress)],
                verbose=0,
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
    return TrialsASHA(
        len(settings.baselines),
        time_attr=ROUND,
        metric=settings.metric,
        mode=settings.direction,
        max_t=rounds,
        grace_period=max(1, rounds // ASHA_FACTOR**2),
        reduction_factor=ASHA_FACTOR,
    )


class TrialsASHA(ASHAScheduler):
    """ASHA (Li et al., MLSys 2020) that never stops the baselines, and stops what has diverged.

    A comparison needs all rounds of the baselines. A score of NaN is neither above nor below the
    others, so ASHA itself would continue the trial.
    """

    def __init__(self, baselines: int, **options: Any) -> None:
        super().__init__(**options)
        self.baselines = baselines

    def on_trial_result(
        self,
        tune_controller: Any,
        trial: TuneTrial,
        result: dict[str, Any],
    ) -> str:
        """Whether a trial is continued."""
        if TrialSpec.from_tune(trial.config).index < self.baselines:
            return str(TrialScheduler.CONTINUE)
        if not is_finite(result[self.metric]):
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Note the last score of a trial, if it has one to compare others with."""
        if is_finite(result.get(self.metric)):
            super().on_trial_complete(tune_controller, trial, result)


class TrialEvents(tune.Callback):
    """Passes the events of Tune's trials on to the recorder and the progress display."""

    def __init__(self, recorder: SweepRecorder, progress: SweepProgress) -> None:
        self.recorder, self.progress = recorder, progress

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them, which is not used here

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record that a trial starts, or starts again after the loss of its process."""
        spec = TrialSpec.from_tune(trial.config)
        self.recorder.start(spec)
        self.progress.start(spec.name)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Record an evaluated round; a failure is recorded when the trial ends."""
        spec, report = TrialSpec.from_tune(trial.config), report_of(result)
        if isinstance(report, TrialFailure):
            return
        self.recorder.log(spec, report.round, report.metrics)
        self.progress.update(spec.name, report.round, report.metrics["test/accuracy"])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record the end of a trial: it was completed or stopped, or it reported a failure."""
        spec, report = TrialSpec.from_tune(trial.config), report_of(trial.last_result)
        if isinstance(report, TrialFailure):
            self._fail(spec, " ".join(report.error.split()), report.diverged)
            return
        status = self.recorder.complete(spec, report.summary, report.metrics)
        line = _outcome_line(spec.config, report, status)
        accuracy = report.summary["test_accuracy"]
        self.progress.finish(spec.name, line, None if status == DIVERGED else accuracy)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Clean what is kept of a trial that failed and starts again."""
        _cut_secrets(trial)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record a trial that failed for good.

        It raised an unexpected exception, or its process was lost, in every retry.
        """
        _cut_secrets(trial)
        self._fail(TrialSpec.from_tune(trial.config), _cause(trial))

    def _fail(self, spec: TrialSpec, error: str, diverged: bool = False) -> None:
        status = self.recorder.fail(spec, error, diverged)
        self.progress.finish(spec.name, f"{status}: {error}", None)


def _outcome_line(config: Config, report: TrialReport, status: str) -> str:
    """How a trial ended."""
    summary, metric = report.summary, config.tune.metric
    score = "" if metric == "test/accuracy" else f"{metric} {report.metrics[metric]:.4g}, "
    is_early = status != COMPLETED and summary["rounds"] < config.federation.rounds
    early = f", stopped after round {summary['rounds']}" if is_early else ""
    return (
        f"{'diverged: ' * (status == DIVERGED)}{score}{percent(summary['test_accuracy'])}, "
        f"upload {size(summary['uplink_bytes'])}, {summary['seconds']:.1f} s"
        f"{dropped_note(summary['dropped'])}{early}"
    )


def _cut_secrets(trial: TuneTrial) -> None:
    """Cut secrets out of what Tune has kept of an error.

    When memory runs out, Ray's message has the command lines of processes, with their overrides.
    """
    if trial.pickled_error_file:
        Path(trial.pickled_error_file).unlink(missing_ok=True)
    if trial.error_file:
        write(Path(trial.error_file), cut_text(Path(trial.error_file).read_text(encoding="utf-8")))


def _cause(trial: TuneTrial) -> str:
    """Why a trial failed, in one line: the exception at the end of the traceback that Tune kept."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    if "ActorDiedError" in text or "actor died" in text:
        return "the trial's process was lost"
    raised = list(re.finditer(r"^[\w.]*?(\w+): ", text, re.MULTILINE))
    if not raised:
        return f"unknown cause; see {trial.error_file}"
    return " ".join(text[raised[-1].start(1) :].split())
