"""What happens to the trials of a sweep: passed on to its records and its display."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.config.schema import Config
from fedsmu_ray.display.formatting import dropped_note, metric_in_words, size, value_in_words
from fedsmu_ray.display.progress import SweepProgress
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_nodes
from fedsmu_ray.executors.base import actor_resources
from fedsmu_ray.executors.ray_placement import growth, has_placed
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.sweeps.failures import TrialFailure, cause, cut_secrets
from fedsmu_ray.sweeps.outcome import COMPLETED, DIVERGED
from fedsmu_ray.sweeps.recorder import SweepRecorder
from fedsmu_ray.sweeps.space import TrialSpec
from fedsmu_ray.sweeps.trial import TrialReport, report_of
from fedsmu_ray.tracking.metrics import (
    final_judged,
    is_share,
    judged_metric,
    score_of,
    unit_of,
)

log = logging.getLogger(__name__)

# Of a trial whose process was lost: it resumes from its checkpoint, or starts again if it has none.
TRIAL_RETRIES = 2
WAIT_LINE_S = 30.0  # between two lines while no trial runs


class Wait:
    """How long no trial has run, since none has got its resources."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.over()

    def over(self) -> None:
        """A trial runs."""
        self.began = time.monotonic()
        self.next_line_s = min(WAIT_LINE_S, self.limit_s)

    def go_on(self, compute: ComputeConfig) -> None:
        """None runs; compute: of the trial that is the next one.

        Logs a line every half minute; raises ExecutionError after the limit.
        """
        waited = time.monotonic() - self.began
        if waited < self.next_line_s:
            return
        if has_placed():  # its process is being started
            self.over()
            return
        self.next_line_s = min(self.next_line_s + WAIT_LINE_S, self.limit_s)
        one, count = ray_nodes.amount(actor_resources(compute)), compute.actors or 1
        needs = f"{count} times {one}" if count > 1 else one
        more = growth(compute).in_words()
        state = f"a trial needs {needs}, and free are {ray_nodes.free()}{more}"
        if waited >= self.limit_s:
            raise ExecutionError(
                f"no trial could start for {self.limit_s:g} s (compute.wait_s): {state}; free "
                "some, lower what a trial needs, or raise compute.wait_s"
            )
        log.warning(
            "no trial runs since %.0f s: %s; gives up after %g s (compute.wait_s)",
            waited,
            state,
            self.limit_s,
        )


class TrialEvents(tune.Callback):
    """Passes the events of Tune's trials on to the recorder and the progress display."""

    def __init__(self, recorder: SweepRecorder, progress: SweepProgress, wait_s: float) -> None:
        """wait_s: `compute.wait_s`, the longest time in which no trial may run."""
        self.recorder, self.progress = recorder, progress
        self.wait = Wait(wait_s)
        self.running: set[int] = set()  # trials, by index
        self.has_apart = False  # whether a host that does not see the folder of the sweep trains

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them, which is not used here

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: object) -> None:
        """Tell what is waited for while no trial runs; raises ExecutionError after `wait_s`."""
        if self.running:
            self.wait.over()
        elif pending := next((trial for trial in trials if trial.status == trial.PENDING), None):
            self.wait.go_on(TrialSpec.from_tune(pending.config).config.compute)

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record that a trial starts, or starts again after the loss of its process."""
        spec = TrialSpec.from_tune(trial.config)
        if spec.index in self.running:  # it was paused
            return
        self.running.add(spec.index)
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
        if report.apart and not self.has_apart:
            self.has_apart = True
            log.warning(
                "%s writes its checkpoints on %s, which does not see the folder of the sweep: a "
                "trial that moves to another node begins again at round 1; set tune.storage to a "
                "folder that all nodes see (NFS), or a URI such as s3://BUCKET/PREFIX",
                spec.name,
                report.apart,
            )
        self.recorder.log(spec, report.round, report.metrics)
        if report.model:  # its process may be gone after this call
            metric = self.recorder.config.tune.primary
            score = score_of(metric, report.metrics, report.summary)
            self.recorder.models.offer(spec, score, report.model.take())
        judged = judged_metric(report.metrics)
        self.progress.update(spec.name, report.round, judged, report.metrics[judged])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record the end of a trial: it was completed or stopped, or it reported a failure."""
        spec, report = TrialSpec.from_tune(trial.config), report_of(trial.last_result)
        self.running.discard(spec.index)
        if isinstance(report, TrialFailure):
            self._fail(spec, self._described(spec, report), report.diverged)
            return
        if report.clients:
            self.recorder.keep_clients(spec, report.clients)
        status = self.recorder.complete(spec, report.summary, report.metrics)
        line = _outcome_line(spec.config, report, status)
        judged = () if status == DIVERGED else final_judged(report.summary)
        self.progress.finish(spec.name, line, *judged)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Tell why a trial starts again, and from where."""
        cut_secrets(trial)
        spec = TrialSpec.from_tune(trial.config)
        self.running.discard(spec.index)
        every = spec.config.checkpoint.every
        again = "its last checkpoint" if every else "round 1 (checkpoint.every is not set)"
        if every and self.has_apart:
            again += ", or from round 1 on a node that does not see it"
        self.progress.print_line(
            f"{spec.name}: {cut_text(cause(trial))}; starts again from {again}, "
            f"{trial.run_metadata.num_failures} of at most {TRIAL_RETRIES} times"
        )

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object
    ) -> None:
        """Record a trial that failed for good.

        It raised an unexpected exception, or its process was lost, in every retry.
        """
        cut_secrets(trial)
        spec = TrialSpec.from_tune(trial.config)
        self.running.discard(spec.index)
        self._fail(spec, cause(trial))

    def _described(self, spec: TrialSpec, failure: TrialFailure) -> str:
        """A failure in one line; its traceback, if it has one, goes to a file."""
        line = " ".join(failure.error.split())
        if not failure.traceback:
            return line
        file = self.recorder.folder.path / f"trial-{spec.index:03d}-error.txt"
        write(file, cut_text(failure.traceback))
        return f"{line}; see {file}"

    def _fail(self, spec: TrialSpec, error: str, diverged: bool = False) -> None:
        status = self.recorder.fail(spec, error, diverged)
        self.progress.finish(spec.name, f"{status}: {error}")


def _outcome_line(config: Config, report: TrialReport, status: str) -> str:
    """How a trial ended."""
    summary, metric = report.summary, config.tune.primary
    judged, value = final_judged(summary)
    shown = value_in_words(judged, value)
    if not is_share(judged):
        shown = f"{metric_in_words(judged)} {shown}"
    elif judged.startswith("val/"):
        shown = f"validation {shown}"
    score = ""
    if metric != judged:
        own = score_of(metric, report.metrics, summary)
        is_bytes = own is not None and unit_of(metric) == "bytes"
        score = "not reached" if own is None else size(own) if is_bytes else f"{own:.4g}"
        score = f"{metric} {score}, "
    why = summary.get("stopped")
    is_early = (why or status != COMPLETED) and summary["rounds"] < config.federation.rounds
    early = f", stopped after round {summary['rounds']}" if is_early else ""
    early += f" ({why})" if why else ""
    return (
        f"{'diverged: ' * (status == DIVERGED)}{score}{shown}, "
        f"upload {size(summary['uplink_bytes'])}, {summary['seconds']:.1f} s"
        f"{dropped_note(summary['dropped'])}{early}"
    )
