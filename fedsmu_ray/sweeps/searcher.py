"""Which trials are left to run, in which order, and which are stopped early."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from fedsmu_ray.config.validation import Config
from fedsmu_ray.sweeps import space
from fedsmu_ray.sweeps.recorder import SweepRecorder


class TrialSearcher(Searcher):
    """Hands Tune the planned trials in order, then asks Optuna (if there is a study) for `budget` more."""

    def __init__(
        self,
        waiting: list[tuple[int, dict[str, Any]]],
        metric: str,
        mode: str,
        budget: int = 0,
        study: Any = None,
        distributions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metric=metric, mode=mode)
        self.waiting, self.budget, self.study, self.distributions = (
            deque(waiting),
            budget,
            study,
            distributions,
        )
        self.next_index = 0
        self.asked: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.waiting:
            index, params = self.waiting.popleft()
        elif self.budget:
            self.budget -= 1
            index, self.next_index = self.next_index, self.next_index + 1
            self.asked[trial_id] = self.study.ask(dict(self.distributions))
            params = self.asked[trial_id].params
        else:
            return Searcher.FINISHED
        return {"index": index, "params": json.dumps(params)}

    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        if trial_id in self.asked:
            from optuna.trial import TrialState

            score = None if error or not result else result.get(self.metric)
            self.study.tell(
                self.asked.pop(trial_id),
                score,
                state=TrialState.FAIL if score is None else TrialState.COMPLETE,
            )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep is resumed from its own records."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep is resumed from its own records")


def plan(config: Config, book: SweepRecorder) -> TrialSearcher:
    """What is left to do of the search."""
    settings = config.tune
    if settings.search != "optuna":
        waiting = [(i, p) for i, p in enumerate(space.trials(config)) if i not in book.rows]
        return TrialSearcher(waiting, settings.metric, settings.mode)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    floats = optuna.distributions.FloatDistribution
    choices = optuna.distributions.CategoricalDistribution
    distributions = {
        key: floats(*values, log=kind == "loguniform")
        if kind in ("uniform", "loguniform")
        else choices(values)
        for key, (kind, values) in space.normal(settings.space).items()
    }
    study = optuna.create_study(
        direction=f"{settings.mode}imize",
        sampler=optuna.samplers.TPESampler(seed=config.seed % 2**32),
    )
    first = space.baselines(config)
    for index, row in book.rows.items():
        if index >= len(first) and row.get("score") is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params=row["params"], distributions=distributions, value=row["score"]
                )
            )
    begun = set(book.rows) | set(book.unfinished)
    waiting = [(i, p) for i, p in enumerate(first) if i not in book.rows]
    waiting += [(i, p) for i, p in sorted(book.unfinished.items()) if i >= len(first)]
    budget = len(first) + settings.samples - len(begun | set(range(len(first))))
    planned = TrialSearcher(waiting, settings.metric, settings.mode, budget, study, distributions)
    planned.next_index = max([len(first) - 1, *begun]) + 1
    return planned


class _ASHA(ASHAScheduler):
    """ASHA (Li et al., MLSys 2020) that leaves the baselines alone: a comparison needs them whole."""

    def __init__(self, baselines: int, **options: Any) -> None:
        super().__init__(**options)
        self.baselines = baselines

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        if trial.config["index"] < self.baselines:
            return FIFOScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


def scheduler(config: Config) -> Any:
    if config.tune.scheduler == "none":
        return FIFOScheduler()
    longest = config.federation.rounds
    return _ASHA(
        len(config.tune.baselines),
        time_attr="round",
        metric=config.tune.metric,
        mode=config.tune.mode,
        max_t=longest,
        grace_period=max(1, longest // 9),
        reduction_factor=3,
    )
