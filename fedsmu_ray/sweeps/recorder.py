"""Records a sweep in its folder and in the tracker: a run of the sweep, a child for each trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fedsmu_ray.config.schema import Config
from fedsmu_ray.display.formatting import run_name
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.experiment.client_table import keep_clients
from fedsmu_ray.experiment.provenance import provenance
from fedsmu_ray.experiment.tracking import DATA_DIGEST, ended_tags, new_run, where_tracked
from fedsmu_ray.files.secrets import cut_text
from fedsmu_ray.sweeps.folder import FAILED, SweepFolder
from fedsmu_ray.sweeps.models import SweepModels
from fedsmu_ray.sweeps.note import note
from fedsmu_ray.sweeps.outcome import (
    COMPLETED,
    DIVERGED,
    STOPPED,
    hide_test,
    history_columns,
    results,
    write_tables,
)
from fedsmu_ray.sweeps.reporting import report_sweep
from fedsmu_ray.sweeps.settings import setting_name
from fedsmu_ray.sweeps.space import TrialSpec, differing_keys, swept_keys
from fedsmu_ray.tracking.base import DESCRIPTION, RunStatus, Tracker, View
from fedsmu_ray.tracking.metrics import final_metrics, is_finite, is_target, score_of

SETTING = "fedsmu.setting"  # tag of a trial's run, the same for all seeds
TRIAL = "fedsmu.trial"  # tag of a trial's run: its index
MAX_ERROR_LENGTH = 500  # characters of an error in a tag


class SweepRecorder:
    """Records the events of a sweep as they happen. Lives in the process of the sweep."""

    def __init__(self, config: Config, folder: SweepFolder, tracker: Tracker) -> None:
        """Start the run of the sweep, or resume the one that the folder names."""
        self.config, self.folder, self.tracker = config, folder, tracker
        self.swept = swept_keys(config.tune)
        # Evaluated rounds of the trials that run: index -> round -> metrics. One that starts again
        # reports the rounds before its checkpoint once more.
        self.evaluated: dict[int, dict[int, Mapping[str, float]]] = defaultdict(dict)
        self._judged = config.judged
        self.models = SweepModels(config, folder)
        self.provenance = provenance(config.compute)
        tags = self._tags("parent", config)
        run = new_run(config.name, config, tags, swept=differing_keys(config.tune))
        before = folder.parent_run
        self.parent = tracker.resume(before, run) if before else tracker.start(run)
        if not before or self.parent != before:
            folder.sweep_started(self.parent)
        self._publish()

    def _publish(self) -> str | None:
        """Save the view of the sweep in the tracker's UI; returns its link."""
        swept = tuple(key for key in self.swept if key != "algorithm.name")
        view = View(f"Sweep {self.config.name}", self.parent, swept, SETTING, self._judged)
        return self.tracker.publish(view)

    def _tags(self, kind: str, config: Config) -> dict[str, str]:
        """Tags of the run of the sweep or of a trial, which may have other data."""
        known = self.folder.data and config.data == self.config.data
        data = {DATA_DIGEST: self.folder.data} if known else {}
        return {"fedsmu.sweep": kind, **self.provenance, **data}

    def start(self, spec: TrialSpec) -> None:
        """Record that a trial starts, or starts again.

        It starts again after an interruption or the loss of its process.
        """
        setting = setting_name(spec.params, spec.config.method_name)
        tags = {**self._tags("trial", spec.config), SETTING: setting, TRIAL: str(spec.index)}
        name = run_name(spec.config.method_name, spec.params, spec.config.seed)
        run = new_run(name, spec.config, tags, self.parent)
        is_known = spec.index in self.folder.unfinished
        before = self.folder.run_ids[spec.index] if is_known else ""
        run_id = self.tracker.resume(before, run) if is_known else self.tracker.start(run)
        if not is_known or run_id != before:
            self.folder.trial_started(spec.index, spec.params, run_id)

    def log(self, spec: TrialSpec, round: int, metrics: Mapping[str, float]) -> None:
        """Record that a trial has evaluated a round.

        With validation samples, its final results on the test set are not among what is recorded.
        """
        if self.config.data.validation:
            metrics = {key: value for key, value in metrics.items() if not key.startswith("test/")}
        self.evaluated[spec.index][round] = metrics
        self.tracker.log(self.folder.run_ids[spec.index], metrics, round)

    def keep_clients(self, spec: TrialSpec, table: str) -> None:
        """Keep the table of clients of a trial that has made all its rounds ("": there is none)."""
        file = self.folder.path / f"clients-{spec.index}.csv"
        keep_clients(file, table, self.tracker, self.folder.run_ids[spec.index])

    def complete(
        self, spec: TrialSpec, summary: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> str:
        """Record that a trial has ended without an error; returns its status.

        summary: of all its rounds. metrics: of the last one.
        """
        if self.config.data.validation:
            summary = hide_test(summary)
        is_whole = summary["rounds"] == self.config.federation.rounds or summary["model_sha256"]
        metric = self.config.tune.primary
        score = score_of(metric, metrics, summary)
        has_diverged = not is_finite(score) and not is_target(metric)
        status = DIVERGED if has_diverged else COMPLETED if is_whole else STOPPED
        tags = {"fedsmu.status": status, **ended_tags(summary)}
        run_id = self.folder.run_ids[spec.index]
        self.tracker.finish(run_id, "FINISHED", final_metrics(summary), tags)
        flat = spec.config.flat()
        outcome = {
            **summary,
            "status": status,
            "score": score,
            "values": {key: flat.get(key) for key in self.swept},
            "history": history_columns(self.evaluated.pop(spec.index, {})),
        }
        self.folder.trial_ended(spec.index, spec.name, outcome)
        return status

    def fail(self, spec: TrialSpec, error: str, diverged: bool = False) -> str:
        """Record that a trial has ended with an error; returns its status."""
        error = cut_text(error)
        if spec.index not in self.folder.run_ids:  # it failed before it started
            self.start(spec)
        status = DIVERGED if diverged else FAILED
        tags = {"fedsmu.status": status, "fedsmu.error": error[:MAX_ERROR_LENGTH]}
        self.tracker.finish(self.folder.run_ids[spec.index], "FAILED", tags=tags)
        outcome = {"status": status, "error": error, **({"score": None} if diverged else {})}
        self.folder.trial_ended(spec.index, spec.name, outcome)
        return status

    def close(self, status: RunStatus, seconds: float) -> dict[str, Any]:
        """End the runs that are still open; returns the outcome of the sweep.

        seconds: wall time of the sweep.
        """
        for index in self.folder.unfinished:
            self.tracker.finish(self.folder.run_ids[index], status)
        tune, has_validation = self.config.tune, bool(self.config.data.validation)
        model = self.models.log(self.tracker) if status == "FINISHED" else None
        outcome = {
            **results(
                tune,
                self.folder.ended,
                has_validation,
                status == "FINISHED",
                self.config.federation.targets,
            ),
            "name": self.config.name,
            "metric": tune.primary,
            **({"metrics": list(tune.metrics)} if len(tune.metrics) > 1 else {}),
            "mode": tune.direction,
            "experiment": self.config.tracking.experiment,
            "view": self._publish(),
            "parent_run_id": self.parent,
            "folder": str(self.folder.path),
            "model": str(model) if model else None,
            "seconds": round(seconds, 3),
            "versions": versions(),
            "provenance": self.provenance,
            "finished": status == "FINISHED",
        }
        if status == "FINISHED":
            args = self.config, self.folder, outcome, self.tracker, self.parent
            outcome["report"] = report_sweep(*args)
        self._finish(outcome, status)
        outcome |= where_tracked(self.config, self.tracker)
        write_tables(self.folder.path, outcome, self.folder.ended)
        return outcome

    def _finish(self, outcome: Mapping[str, Any], status: RunStatus) -> None:
        """End the run of the sweep."""
        metrics, tags = {}, {"fedsmu.trials": str(len(outcome["trials"]))}
        tags[DESCRIPTION] = note(outcome, status, self.config.seed)
        if best := outcome["best"]:
            judged = self._judged.replace("/", "_")
            metrics[f"best/{judged}"] = best[f"best_{judged}"]
            tested = outcome["settings"][0]["test_accuracy"]
            if self.config.data.validation and tested:
                metrics["final/test_accuracy"] = tested["mean"]
            tags["fedsmu.best_run"] = best["run_id"]
        self.tracker.finish(self.parent, status, metrics, tags)
