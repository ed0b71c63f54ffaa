"""The schedulers of a sweep: which trials are stopped early, or wait for others."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.sweeps.settings import setting_key
from fedsmu_ray.sweeps.space import TrialSpec, seed_count
from fedsmu_ray.sweeps.trial import ROUND
from fedsmu_ray.tracking.metrics import is_finite

# ASHA, HyperBand: of the trials at a rung, one in three is continued; ASHA's first rung, and the
# first round in which the median rule stops trials, is at a ninth of the rounds.
FACTOR = 3
MIN_OTHERS = 3  # settings of which the median is taken


def scheduler(settings: TuneConfig, rounds: int) -> TrialScheduler:
    """The scheduler of a sweep whose trials have so many rounds."""
    options: dict[str, Any] = {
        "time_attr": ROUND,
        "metric": settings.primary,
        "mode": settings.direction,
    }
    fixed, grace = len(settings.baselines) * seed_count(settings), max(1, rounds // FACTOR**2)
    match settings.scheduler:
        case "asha":
            options |= {"max_t": rounds, "grace_period": grace, "reduction_factor": FACTOR}
            return SettingsASHA(fixed, rounds, **options)
        case "median":
            options |= {"grace_period": grace, "min_samples_required": MIN_OTHERS}
            return SettingsMedian(fixed, rounds, **options)
        case "hyperband":
            options |= {"max_t": rounds, "reduction_factor": FACTOR}
            return HyperBand(fixed, **options)
    return FIFOScheduler()


class _OfSettings(FIFOScheduler):
    """A scheduler that compares settings: a trial has the mean score of its seeds so far.

    It never stops the baselines, since a comparison needs all their rounds, and stops a setting of
    which a trial has diverged: a score of NaN is neither above nor below the others, so Ray's
    scheduler would continue it. What has stopped one trial of a setting stops the others at the
    same round.
    """

    def __init__(self, baselines: int, rounds: int, **options: Any) -> None:
        """baselines: how many trials, from the first one on, are never stopped."""
        super().__init__(**options)
        self.baselines, self.rounds, self.by = baselines, rounds, options["metric"]
        # By setting and round: those of its trials, by index.
        self.scores: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        self.stopped: dict[str, int] = {}  # the round in which a setting was stopped

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Whether a trial is continued."""
        spec, score, round = TrialSpec.from_tune(trial.config), result[self.by], result[ROUND]
        if spec.index < self.baselines:
            return str(TrialScheduler.CONTINUE)
        setting = setting_key(spec.params)
        if not is_finite(score) or round >= self.stopped.get(setting, math.inf):
            decision = TrialScheduler.STOP
        else:
            scores = self.scores[setting, round]
            scores[spec.index] = score
            mean = {**result, self.by: fmean(scores.values())}
            decision = super().on_trial_result(tune_controller, trial, mean)
        if decision == TrialScheduler.STOP and round < self.rounds:
            self.stopped[setting] = min(round, self.stopped.get(setting, round))
        return str(decision)

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Note the last score of a trial, if it has one to compare others with."""
        if is_finite(result.get(self.by)):
            super().on_trial_complete(tune_controller, trial, result)


class SettingsASHA(_OfSettings, ASHAScheduler):
    """ASHA (Li et al., MLSys 2020) over settings."""


class SettingsMedian(_OfSettings, MedianStoppingRule):
    """The median stopping rule (Golovin et al., KDD 2017) over settings.

    A trial is stopped if its best score so far is worse than the median of the mean scores that
    the others had up to the same round.
    """

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Nothing: a last round that was reported is known, with the mean of its setting."""

    def _on_insufficient_samples(self, tune_controller: Any, trial: TuneTrial, time: float) -> str:
        """Go on: Ray's rule would pause the trial if others wait, which costs a checkpoint."""
        return str(TrialScheduler.CONTINUE)


class HyperBand(HyperBandScheduler):
    """HyperBand (Li et al., JMLR 2018): the trials of a bracket wait for each other at its rungs.

    One in three then goes on, from the checkpoint that each has written when it was paused. The
    baselines are in no bracket, and a trial that has diverged leaves its own.
    """

    def __init__(self, baselines: int, **options: Any) -> None:
        """baselines: how many trials, from the first one on, are never stopped."""
        super().__init__(**options)
        self.baselines, self.by = baselines, options["metric"]

    def _is_baseline(self, trial: TuneTrial) -> bool:
        return TrialSpec.from_tune(trial.config).index < self.baselines

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Put a trial into a bracket."""
        if not self._is_baseline(trial):
            super().on_trial_add(tune_controller, trial)

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Whether a trial is continued, paused or stopped."""
        if self._is_baseline(trial):
            return str(TrialScheduler.CONTINUE)
        if not is_finite(result[self.by]):
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Take a trial that has ended out of its bracket."""
        if not self._is_baseline(trial):
            super().on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """A baseline first, then the next one of a bracket."""
        live: set[TuneTrial] = tune_controller.get_live_trials()
        waiting = [t for t in live if t.status == TuneTrial.PENDING and self._is_baseline(t)]
        if waiting:
            return min(waiting, key=lambda trial: TrialSpec.from_tune(trial.config).index)
        chosen: TuneTrial | None = super().choose_trial_to_run(tune_controller)
        return chosen
