"""Suggests trials to Ray Tune: the rest of a list, or new ones by Optuna."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from fedsmu_ray.config.schema import Config, TuneConfig
from fedsmu_ray.sweeps.failures import TrialFailure
from fedsmu_ray.sweeps.folder import SweepFolder
from fedsmu_ray.sweeps.space import (
    INTERVALS,
    Dimension,
    Params,
    TrialSpec,
    baselines,
    list_params,
    parse_space,
)
from fedsmu_ray.sweeps.trial import REPORT
from fedsmu_ray.tracking.metrics import is_finite

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

IndexedParams = tuple[int, Params]  # the index of a trial and its parameters


class TrialSearcher(Searcher):
    """Suggests the known trials in order, then those of the Optuna study, if there is one."""

    def __init__(
        self, config: Config, known: Sequence[IndexedParams], study: OptunaStudy | None = None
    ) -> None:
        super().__init__(metric=config.tune.metric, mode=config.tune.direction)
        # Trials do not track themselves, and Tune writes their configurations to files.
        self.config = config.without_store_password()
        self.known, self.study = deque(known), study

    @property
    def remaining(self) -> int:
        """How many trials it will still suggest."""
        return len(self.known) + (self.study.budget if self.study else 0)

    def suggest(self, trial_id: str) -> Any:
        """The next trial as a configuration of Tune, or Searcher.FINISHED."""
        if self.known:
            index, params = self.known.popleft()
        elif self.study and self.study.budget:
            index, params = self.study.ask(trial_id)
        else:
            return Searcher.FINISHED
        return TrialSpec.of(self.config, index, params).to_tune()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the score of a trial, or its failure, to the study."""
        if not self.study:
            return
        if error or not result:
            self.study.tell(trial_id, None)
            return
        report = result.get(REPORT)
        diverged = isinstance(report, TrialFailure) and report.diverged
        self.study.tell(trial_id, math.nan if diverged else result.get(self.metric))

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved: a sweep is resumed from its own folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Not used: a sweep is resumed from its own folder."""
        raise NotImplementedError("a sweep is resumed from its own folder")


class OptunaStudy:
    """The trials that Optuna's TPE sampler suggests from the results so far."""

    def __init__(self, tune: TuneConfig, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.distributions = {
            key: _distribution(dimension) for key, dimension in parse_space(tune.space).items()
        }
        self.study = optuna.create_study(
            direction="maximize" if tune.direction == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed % 2**32),
        )
        self.asked: dict[str, optuna.Trial] = {}  # by Tune's trial id
        self.budget = 0  # trials that it will still suggest
        self.next_index = 0  # of the next one

    def add(self, params: Params, score: float | None) -> None:
        """Add the result of a trial of an earlier process; score: None if it diverged."""
        import optuna

        self.study.add_trial(
            optuna.trial.create_trial(
                params=dict(params),
                distributions=self.distributions,
                value=score,
                state=_state_of(score),
            )
        )

    def ask(self, trial_id: str) -> IndexedParams:
        """A new trial; `tell` reports its score under the same `trial_id`."""
        index = self.next_index
        self.budget, self.next_index = self.budget - 1, index + 1
        self.asked[trial_id] = self.study.ask(dict(self.distributions))
        return index, self.asked[trial_id].params

    def tell(self, trial_id: str, score: float | None) -> None:
        """Report the score of a trial, or None if it failed.

        Trials that were not asked for are ignored.
        """
        from optuna.trial import TrialState

        if trial_id in self.asked:
            state = TrialState.FAIL if score is None else _state_of(score)
            value = score if state == TrialState.COMPLETE else None
            self.study.tell(self.asked.pop(trial_id), value, state=state)


def _state_of(score: float | None) -> TrialState:
    """The state of a trial that did not fail.

    TPE takes a pruned trial for worse than all others, whereas it would ignore a failed one and
    suggest what diverges again; a value of NaN is refused.
    """
    from optuna.trial import TrialState

    return TrialState.COMPLETE if is_finite(score) else TrialState.PRUNED


def _distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension of a search space as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if dimension.kind not in INTERVALS:
        return CategoricalDistribution(dimension.values)
    low, high = dimension.values
    return FloatDistribution(low, high, log=dimension.kind == "loguniform")


def trial_searcher(config: Config, folder: SweepFolder) -> TrialSearcher:
    """The searcher for the remaining trials of a sweep."""
    if config.tune.search == "optuna":
        return _optuna_searcher(config, folder)
    trials = enumerate(list_params(config))
    return TrialSearcher(config, [(i, params) for i, params in trials if i not in folder.ended])


def _optuna_searcher(config: Config, folder: SweepFolder) -> TrialSearcher:
    """Baselines first, then the interrupted trials, then new ones."""
    fixed = baselines(config.tune)
    known = [(i, params) for i, params in enumerate(fixed) if i not in folder.ended]
    known += [(i, p) for i, p in sorted(folder.unfinished.items()) if i >= len(fixed)]
    study = OptunaStudy(config.tune, config.seed)
    for i, row in folder.ended.items():
        if i >= len(fixed) and "score" in row:
            study.add(row["params"], row["score"])
    counted = {*range(len(fixed)), *folder.ended, *folder.unfinished}
    study.budget = len(fixed) + config.tune.samples - len(counted)
    study.next_index = max(counted, default=-1) + 1
    return TrialSearcher(config, known, study)
