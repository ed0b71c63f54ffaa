"""Suggests trials to Ray Tune: the rest of a list, or new ones by Optuna."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ray.tune.search import Searcher

from fedsmu_ray.config.schema import Config
from fedsmu_ray.objectives.metrics import Direction
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
    seed_count,
    with_seeds,
)
from fedsmu_ray.sweeps.trial import REPORT
from fedsmu_ray.tracking.metrics import direction_of, field_of, is_finite

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

DIRECTIONS: dict[Direction, Literal["maximize", "minimize"]] = {
    "max": "maximize",
    "min": "minimize",
}
IndexedParams = tuple[int, Params]  # the index of a trial and its parameters


class TrialSearcher(Searcher):
    """Suggests the known trials in order, then those of the Optuna study, if there is one."""

    def __init__(
        self, config: Config, known: Sequence[IndexedParams], study: OptunaStudy | None = None
    ) -> None:
        super().__init__(metric=config.tune.primary, mode=config.tune.direction)
        # Trials do not track themselves, and Tune writes their configurations to files.
        self.config = config.without_store_password()
        self.known, self.study = deque(known), study
        self.suggested: dict[str, int] = {}  # indexes of trials that run, by Tune's id of them
        self.last: dict[str, dict[str, Any]] = {}  # their last results, likewise

    @property
    def remaining(self) -> int:
        """How many trials it will still suggest."""
        new = self.study.budget * seed_count(self.config.tune) if self.study else 0
        return len(self.known) + new

    def suggest(self, trial_id: str) -> Any:
        """The next trial as a configuration of Tune, or Searcher.FINISHED."""
        if not self.known and self.study and self.study.budget:
            self.known += self.study.ask()
        if not self.known:
            return Searcher.FINISHED
        index, params = self.known.popleft()
        self.suggested[trial_id] = index
        return TrialSpec.of(self.config, index, params).to_tune()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note the result of a trial: Tune gives none if it stops one that is paused."""
        self.last[trial_id] = result

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the score of a trial, or its failure, to the study."""
        index, last = self.suggested.pop(trial_id), self.last.pop(trial_id, None)
        result = result or last
        if not self.study:
            return
        if error or not result:
            self.study.tell(index, None)
            return
        report = result.get(REPORT)
        diverged = isinstance(report, TrialFailure) and report.diverged
        names = self.config.tune.metrics
        self.study.tell(index, [math.nan if diverged else result[name] for name in names])

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved: a sweep is resumed from its own folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Not used: a sweep is resumed from its own folder."""
        raise NotImplementedError("a sweep is resumed from its own folder")


class OptunaStudy:
    """The settings that Optuna's TPE sampler suggests from the mean scores so far.

    It takes several metrics, too (Ozaki et al., GECCO 2020). A setting has as many trials as there
    are seeds, with consecutive indexes.
    """

    def __init__(self, config: Config, first: int) -> None:
        """first: index of the first trial that is no baseline."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        tune = config.tune
        self.config, self.first, self.seeds = config, first, seed_count(tune)
        self.distributions = {
            key: _distribution(dimension) for key, dimension in parse_space(tune.space).items()
        }
        self.study = optuna.create_study(
            directions=[DIRECTIONS[direction_of(name)] for name in tune.metrics],
            sampler=optuna.samplers.TPESampler(seed=config.seed % 2**32),
        )
        # Those whose trials have not all ended, by the index of their first trial. Optuna knows
        # the trial of one that an earlier process asked for only when it has ended.
        self.asked: dict[int, optuna.Trial] = {}
        self.params: dict[int, Params] = {}
        self.scores: dict[int, list[Sequence[float] | None]] = defaultdict(list)
        self.budget = 0  # settings that it will still suggest
        self.next_index = first  # of the first trial of the next one

    def ask(self) -> list[IndexedParams]:
        """The trials of a new setting; `tell` reports their scores."""
        start = self.next_index
        self.budget, self.next_index = self.budget - 1, start + self.seeds
        self.asked[start] = self.study.ask(dict(self.distributions))
        return self.add(start, self.asked[start].params)

    def add(self, start: int, params: Params) -> list[IndexedParams]:
        """The trials of a setting whose first one has index `start`."""
        self.params[start] = params
        return list(enumerate(with_seeds(self.config, params), start))

    def tell(self, index: int, score: Sequence[float] | None) -> None:
        """Report the score of a trial by each metric: NaN if it diverged, None if it failed.

        Optuna learns the mean of the setting when all its trials have ended. Baselines are ignored.
        """
        if index < self.first:
            return
        start = index - (index - self.first) % self.seeds
        scores = self.scores[start]
        scores.append(score)
        if len(scores) == self.seeds:
            known = [score for score in self.scores.pop(start) if score is not None]
            self._tell(start, [fmean(column) for column in zip(*known, strict=True)] or None)

    def _tell(self, start: int, score: Sequence[float] | None) -> None:
        """Optuna learns the score of a setting, as in `tell`."""
        import optuna
        from optuna.trial import TrialState

        state = TrialState.FAIL if score is None else _state_of(score)
        values, params = score if state == TrialState.COMPLETE else None, self.params.pop(start)
        if start in self.asked:
            self.study.tell(self.asked.pop(start), values, state=state)
        elif state != TrialState.FAIL:
            made = optuna.trial.create_trial(
                params=dict(params), distributions=self.distributions, values=values, state=state
            )
            self.study.add_trial(made)


def _state_of(score: Sequence[float]) -> TrialState:
    """The state of a trial that did not fail.

    TPE takes a pruned trial for worse than all others, whereas it would ignore a failed one and
    suggest what diverges again; a value of NaN is refused.
    """
    from optuna.trial import TrialState

    return TrialState.COMPLETE if all(map(is_finite, score)) else TrialState.PRUNED


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
    """Baselines first, then the rest of the settings that were begun, then new ones."""
    fixed = [p for each in baselines(config.tune) for p in with_seeds(config, each)]
    known = [(i, params) for i, params in enumerate(fixed) if i not in folder.ended]
    study = OptunaStudy(config, len(fixed))
    begun = {i: row["params"] for i, row in folder.ended.items()} | folder.unfinished
    starts = {i - (i - len(fixed)) % study.seeds: p for i, p in begun.items() if i >= len(fixed)}
    for start, params in sorted(starts.items()):
        own = {key: value for key, value in params.items() if key in study.distributions}
        for index, trial in study.add(start, own):
            if index in folder.ended:
                # One that diverged, or did not reach a target, has None for its score.
                row = folder.ended[index]
                found = [row.get("score"), *(row.get(field_of(n)) for n in config.tune.metrics[1:])]
                study.tell(index, [math.nan if score is None else score for score in found])
            else:
                known.append((index, trial))
    study.budget = config.tune.samples - len(starts)
    study.next_index = max(starts, default=len(fixed) - study.seeds) + study.seeds
    return TrialSearcher(config, known, study)
