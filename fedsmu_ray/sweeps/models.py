"""The trained models of a sweep: files in its folder, logged with the runs of their trials.

A trial puts its model into the object store when it has ended, and the process of the sweep fetches
it only if the trial may be the best one (or if all are kept).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from statistics import fmean
from typing import Any

import numpy as np
import ray

from fedsmu_ray.config.schema import Config
from fedsmu_ray.experiment.kept_model import new_model
from fedsmu_ray.experiment.model_file import TrainedModel, unpacked
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import Executor
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place
from fedsmu_ray.sweeps.folder import SweepFolder, model_file, models_in
from fedsmu_ray.sweeps.settings import Row, setting_key
from fedsmu_ray.sweeps.space import TrialSpec, seed_count
from fedsmu_ray.tracking.base import Tracker
from fedsmu_ray.tracking.metrics import is_finite, rank

log = logging.getLogger(__name__)


class OfferedModel:
    """The model of a trial in the object store, until the process of the sweep has taken it.

    Tune pickles what a trial has reported now and then; a reference that is pickled is never
    released, so `take` leaves none.
    """

    def __init__(self, problem: Problem, executor: Executor) -> None:
        """Offer the model of an experiment that has ended."""
        model = TrainedModel.of(problem, executor.params())
        self._references = [ray.put(np.frombuffer(model.packed(), np.uint8))]

    def take(self) -> Any:
        """The reference to the content of the model file, uint8 [bytes]."""
        return self._references.pop()


class SweepModels:
    """Which models of a sweep are kept (`tracking.models`). Lives in the process of the sweep.

    The best trial is the best one of the best setting, whose score is the mean over its seeds. So
    until all seeds of a setting have ended, the model of its best trial is kept, too.
    """

    def __init__(self, config: Config, folder: SweepFolder) -> None:
        self.config, self.folder = config, folder
        self.keeps = config.tracking.models
        self._kept = models_in(folder.path)

    def offer(self, spec: TrialSpec, score: float | None, reference: Any) -> None:
        """Keep the model of a trial that has just ended, if it may be the best one.

        score: the trial's, if it has one. reference: to the content of its model file. A failure is
        a warning.
        """
        index = spec.index
        row = {"index": index, "params": spec.params, "score": score}
        may_be_best = self._candidates([*self.folder.ended.values(), row], self._kept | {index})
        try:
            if self.keeps == "all" or index in may_be_best:
                write(model_file(self.folder.path, index), ray.get(reference).tobytes())
                self._kept.add(index)
            self._remove_all_but(may_be_best)
        except Exception as error:  # of Ray, if the trial's node is lost, or of the storage
            log.warning("the model of trial %d is not kept (%s)", index, _line(error))

    def _remove_all_but(self, candidates: Sequence[int]) -> None:
        for index in self._kept - {*candidates} if self.keeps == "best" else ():
            model_file(self.folder.path, index).unlink(missing_ok=True)
            self._kept.discard(index)

    def _candidates(self, rows: Sequence[Row], kept: Set[int]) -> list[int]:
        """The trials that may be the best one when the sweep has ended, the best so far first.

        rows: of trials that have ended; kept: those whose models are there, unlike those of trials
        that a scheduler has stopped.
        """
        direction, groups = self.config.tune.direction, dict[str, list[Row]]()
        for row in rows:
            groups.setdefault(setting_key(row["params"]), []).append(row)
        settings = []
        for group in groups.values():
            scored = [r for r in group if r["index"] in kept and is_finite(r["score"])]
            if scored:
                score = rank(_mean([row["score"] for row in group]), direction)
                best = min(scored, key=lambda row: (rank(row["score"], direction), row["index"]))
                is_open = len(group) < seed_count(self.config.tune)
                settings.append((score, min(row["index"] for row in group), best["index"], is_open))
        settings.sort()
        ended = [setting for setting in settings if not setting[-1]]
        return [setting[2] for setting in settings if setting[-1] or setting == ended[0]]

    def log(self, tracker: Tracker) -> Place | None:
        """Log the models that are kept; returns the file of the best trial's, if there is one.

        Those of an earlier part of a resumed sweep are logged once. A failure is a warning.
        """
        if self.keeps == "none":
            return None
        ended = self.folder.ended
        best = next(iter(self._candidates([*ended.values()], self._kept)), None)
        for index in sorted(self._kept & ended.keys()):
            run_id = ended[index]["run_id"] if tracker.uri is not None else ""
            if not run_id or (self.keeps != "all" and index != best):
                continue
            file = model_file(self.folder.path, index)
            try:
                register = self.config.tracking.register if index == best else None
                model = unpacked(file.read_bytes(), str(file))
                tracker.log_model(run_id, new_model(model, ended[index], register))
            except Exception as error:  # of many types: a user's model is built again
                log.warning("the model of trial %d is not in MLflow (%s)", index, _line(error))
        return None if best is None else model_file(self.folder.path, best)


def _mean(scores: Sequence[float | None]) -> float | None:
    """The score of a setting; None if one of its trials has diverged."""
    finite = [score for score in scores if score is not None and is_finite(score)]
    return fmean(finite) if len(finite) == len(scores) else None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
