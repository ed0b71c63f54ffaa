"""One trial of a sweep, in its own process, and what it reports to the sweep's process."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from fedsmu_ray.config.schema import DataConfig
from fedsmu_ray.display.profile import write_trace
from fedsmu_ray.errors import BrokenGPUError
from fedsmu_ray.executors.ray_data import load_on
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.executors.versions import check_versions, versions
from fedsmu_ray.experiment.client_table import clients_csv
from fedsmu_ray.experiment.resume import check_resume, resumable, save_now, trial_folder
from fedsmu_ray.experiment.summary import summarize
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.stopping import stop_reason
from fedsmu_ray.files.remote import Place, place
from fedsmu_ray.files.run_folders import SWEEP
from fedsmu_ray.sweeps.failures import RETRIED, TrialFailure
from fedsmu_ray.sweeps.folder import trace_file, trial_checkpoints
from fedsmu_ray.sweeps.models import OfferedModel
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.tracking.metrics import is_target, score_of, tracked

log = logging.getLogger(__name__)

# Keys of a result of Tune. The metrics are keys of their own, by which schedulers compare trials.
ROUND, DONE, REPORT = "round", "done", "report"


@dataclass(frozen=True)
class TrialReport:
    """Report of a trial that has evaluated a round."""

    round: int
    metrics: Mapping[str, float]  # as they are tracked
    summary: Mapping[str, Any]  # of the rounds so far, see `experiment.summary`
    apart: str = ""  # this host, if its checkpoints are not in the folder that the sweep sees
    model: OfferedModel | None = None  # after the last round, if models are kept
    clients: str = ""  # likewise the table of the clients, see `experiment.client_table`


def report_of(result: Mapping[str, Any]) -> TrialReport | TrialFailure:
    """What the trial reported with this result of Tune."""
    report: TrialReport | TrialFailure = result[REPORT]
    return report


class Trial(tune.Trainable):
    """Runs one trial; every step is one evaluated round.

    The process and its client actors outlive the trial and run the next one (`reset_config`), which
    replaces everything they know of an experiment.
    """

    # `tune.with_parameters` passes the arguments after `config`.
    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        data: DataConfig,
        dataset: list[Any],
        folder: str,
        node: str,
        software: dict[str, str],
        profiled: bool = False,
    ) -> None:
        """Prepare the first trial of this process.

        data, dataset: the sweep's data set, and its reference in the object store (see
        `ray_cluster.store`), which is used if the trial has the same one. folder: of the sweep.
        node: the id of its node, which loads other data sets. software: its `versions`. profiled:
        whether trials leave traces in the folder.
        """
        spec = TrialSpec.from_tune(config)
        self.data, (self.dataset,), self.folder = data, dataset, place(folder)
        self.node, self.software, self.profiled = node, software, profiled
        # Tune reuses this process only for trials with the same resources: one executor fits all.
        compute = spec.config.compute
        self.executor = backend(compute.executor).open_in_trial(compute)
        self._prepare(spec)

    def _prepare(self, spec: TrialSpec) -> None:
        """Load a trial; what that raises is the trial's failure, not this process's."""
        self.began = time.perf_counter()
        self.failure: TrialFailure | None = None
        self.trace: Place | None = None
        self.rounds = _no_rounds()
        self.reported = 0  # the last round that the sweep knows
        try:
            self._load(spec)
        except RETRIED:
            raise  # Tune ends this process, and starts the trial again in a new one
        except Exception as error:
            self.failure = TrialFailure.of(error)

    def _load(self, spec: TrialSpec) -> None:
        check_versions(self.software, versions(), "the trial's process")
        config = spec.config
        if _has_same_data(config.data, self.data):
            dataset, stored = ray.get(self.dataset), self.dataset
        else:
            dataset, stored = load_on(self.node, config.data, spec.data_folder)
        problem = Problem.of(config, dataset)
        self.executor.load(replace(problem, profiled=self.profiled), stored)
        self.trace = trace_file(self.folder, spec.index) if self.profiled else None
        self.problem, self.progress = problem, Progress()
        is_kept = config.checkpoint.every or config.tune.scheduler == "hyperband"
        folder = trial_checkpoints(self.folder, spec.index) if is_kept else None
        is_apart = folder and not (self.folder / SWEEP.file).exists()
        self.apart = socket.gethostname() if is_apart else ""
        self.checkpoints, self.rounds = folder, self._rounds(folder)

    def _rounds(self, folder: Place | None) -> Generator[Record, None, None]:
        with trial_folder(folder):
            if folder:
                check_resume(self.problem, folder)
            yield from resumable(self.problem, self.executor, self.progress, folder)

    def step(self) -> dict[str, Any]:
        """Run to the next evaluated round; returns the result for Tune."""
        if self.failure:
            return {DONE: True, REPORT: self.failure}
        try:
            known = self.reported
            record = next(r for r in self.rounds if r.is_evaluated and r.round > known)
            # Except for the last record, the server is already one round further.
            is_last = self._is_last(record)
            sha256 = self.executor.sha256() if is_last else None
        except (BrokenGPUError, RayError):
            raise
        except Exception as error:
            failure = TrialFailure.of(error)
            self._end()
            return {DONE: True, REPORT: failure}
        self.reported = record.round
        if is_last:
            self._end()
        seconds = time.perf_counter() - self.began
        trained_on = self.executor.trained_on
        summary = summarize(self.problem, self.progress, sha256, seconds, trained_on)
        model = self._model() if is_last else None
        clients = clients_csv(record.round, self.progress.clients) if is_last else ""
        report = TrialReport(record.round, tracked(record), summary, self.apart, model, clients)
        scores = self._target_scores(summary)
        return {**report.metrics, **scores, ROUND: record.round, DONE: is_last, REPORT: report}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Write the trial's own checkpoint, from which it goes on after a pause.

        Tune keeps nothing but the last round that was reported.
        """
        if self.checkpoints:
            save_now(self.problem, self.executor, self.progress, self.checkpoints)
        return {ROUND: self.reported}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on after a pause: the trial's own checkpoint is read when it is stepped."""
        self.reported = (checkpoint or {}).get(ROUND, 0)

    def _target_scores(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of the sweep that are about targets; NaN until these are reached."""
        names = [name for name in self.problem.config.tune.metrics if is_target(name)]
        scores = {name: score_of(name, {}, summary) for name in names}
        return {name: math.nan if value is None else value for name, value in scores.items()}

    def _is_last(self, record: Record) -> bool:
        """Whether the trial ends with this record, which has just been yielded."""
        config, evaluated = self.problem.config, self.progress.evaluated
        if record.round < self.progress.last.round:  # yielded once more, before a checkpoint
            return False
        is_done = record.round == config.federation.rounds
        return is_done or stop_reason(config, evaluated) is not None

    def _model(self) -> OfferedModel | None:
        """The trained model, if models are kept; that it cannot be is a warning."""
        if self.problem.config.tracking.models == "none":
            return None
        try:
            return OfferedModel(self.problem, self.executor)
        except Exception as error:  # of many types: a user's model is built again
            log.warning("the trained model is not kept (%s: %s)", type(error).__name__, error)
            return None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next trial of this process."""
        self._end()
        # A trial may have data of its own, which would else be in memory beside those of the next.
        self.executor.unload()
        self.__dict__.pop("problem", None)  # which one that could not be loaded does not have
        self._prepare(TrialSpec.from_tune(new_config))
        return True

    def cleanup(self) -> None:
        """Release the executor and the folder."""
        self._end()
        self.executor.close()

    def _end(self) -> None:
        """Unlock the folder of the trial and write its trace, unless that was done."""
        self.rounds.close()
        trace, self.trace = self.trace, None
        if trace:
            write_trace(self.executor.spans.spans, trace)


def _no_rounds() -> Generator[Record, None, None]:
    yield from ()


def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """The placement group of a trial, from Tune's configuration of it."""
    compute = TrialSpec.from_tune(config).config.compute
    bundles = backend(compute.executor).trial_bundles(compute)
    return tune.PlacementGroupFactory(bundles, strategy="PACK")


def _has_same_data(one: DataConfig, other: DataConfig) -> bool:
    return (one.dataset, one.folder(), one.options) == (
        other.dataset,
        other.folder(),
        other.options,
    )
