"""The records of a sweep: trials.jsonl in its folder, its runs in MLflow, its display."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from fedsmu_ray.config.validation import Config
from fedsmu_ray.display.progress import SweepDisplay, describe, missing, percent, size
from fedsmu_ray.experiment import run as experiment
from fedsmu_ray.sweeps import space
from fedsmu_ray.sweeps.folder import open_folder
from fedsmu_ray.tracking import mlflow as tracking

COMPLETED, FAILED, STOPPED = (
    "completed",
    "failed",
    "stopped",
)  # stopped: by the scheduler, before its last round
log = logging.getLogger(__name__)


class SweepRecorder(tune.Callback):
    """Keeps the books: the sweep's folder, the MLflow runs, the display. Lives in the sweep's process."""

    def __init__(
        self, config: Config, folder: Path, tracker: tracking.Tracker | tracking.NoTracker
    ) -> None:
        self.config, self.folder, self.tracker = config, folder, tracker
        self.shown: SweepDisplay | None = None
        self.rows: dict[int, dict[str, Any]] = {}  # ended trials by index
        self.run_ids: dict[int, str] = {}
        self.unfinished: dict[int, dict[str, Any]] = {}  # params of trials begun and not ended
        self.parent = ""
        self.cut = (
            folder.exists()
        )  # whether the last line of trials.jsonl may be half a line, as a crash leaves it
        self.skip: dict[
            int, int
        ] = {}  # the last round of each trial that MLflow has, or will have from the buffer
        for event in open_folder(folder, config):
            if event["event"] == "sweep":
                self.parent = event["run_id"]
            elif event["event"] == "start":
                self.unfinished[event["index"]], self.run_ids[event["index"]] = (
                    event["params"],
                    event["run_id"],
                )
            elif event["status"] != FAILED:
                self.rows[event["index"]] = event
                self.unfinished.pop(event["index"], None)
        if self.parent:
            self.tracker.resume(self.parent)
        else:
            self.parent = tracker.start(config.name, config, {"fedsmu.sweep": "parent"})
            self._write({"event": "sweep", "run_id": self.parent})

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is not used here

    def _write(self, event: Mapping[str, Any]) -> None:
        """Note an event for `--resume`. A disk that is full costs that, and not the sweep."""
        try:
            with open(self.folder / "trials.jsonl", "a", encoding="utf-8") as file:
                file.write(("\n" if self.cut else "") + json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.cut = False
        except OSError as error:
            self.cut = True  # a part of the line may be there
            log.warning(
                "%s: cannot be written (%s); a resumed sweep would run this trial again",
                self.folder / "trials.jsonl",
                error,
            )

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index, params = trial.config["index"], json.loads(trial.config["params"])
        if index in self.unfinished and index in self.run_ids:
            self.skip[index] = max(
                self.skip.get(index, 0), self.tracker.resume(self.run_ids[index])
            )
        else:
            self.run_ids[index] = self.tracker.start(
                self._name(index, params),
                space.configure(self.config, params),
                {"fedsmu.sweep": "trial"},
                self.parent,
            )
            self._write(
                {"event": "start", "index": index, "params": params, "run_id": self.run_ids[index]}
            )
        self.unfinished[index] = params
        self.shown.start(self._name(index, params))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        index = trial.config["index"]
        if "error" in result:
            return
        if result["round"] > self.skip.get(index, 0):
            self.tracker.log(
                self.run_ids[index],
                {k: result[k] for k in result if k in tracking.METRICS},
                result["round"],
            )
            self.skip[index] = result[
                "round"
            ]  # a trial that goes on from a checkpoint tells its rounds once more
        self.shown.update(
            self._name(index, self.unfinished[index]), result["round"], result["test/accuracy"]
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index, result = trial.config["index"], trial.last_result
        if "error" in result:
            return self._fail(index, " ".join(result["error"].split()))
        summary = json.loads(result["summary"])
        status = (
            COMPLETED
            if summary["rounds"] == self.config.federation.rounds or summary["model_sha256"]
            else STOPPED
        )
        tags = {
            "fedsmu.status": status,
            **({"model_sha256": summary["model_sha256"]} if summary["model_sha256"] else {}),
        }
        self.tracker.finish(self.run_ids[index], "FINISHED", experiment.final_metrics(summary), tags)
        accuracy = summary["test_accuracy"]
        early = "" if status == COMPLETED else f", stopped after round {summary['rounds']}"
        self._end(
            index,
            {**summary, "status": status, "score": result[self.config.tune.metric]},
            accuracy,
            f"{percent(accuracy)}, upload {size(summary['uplink_bytes'])}, {summary['seconds']:.1f} s"
            f"{missing(summary['dropped'])}{early}",
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.config["index"] not in self.run_ids:  # it failed before it started
            self.on_trial_start(iteration, trials, trial)
        self._fail(trial.config["index"], _cause(trial))

    def _fail(self, index: int, error: str) -> None:
        self.tracker.finish(
            self.run_ids[index],
            "FAILED",
            tags={"fedsmu.status": FAILED, "fedsmu.error": error[:500]},
        )
        self._end(index, {"status": FAILED, "error": error}, None, f"failed: {error}")

    def _end(self, index: int, outcome: dict[str, Any], accuracy: float | None, line: str) -> None:
        params = self.unfinished.pop(index)
        name = self._name(index, params)
        self.rows[index] = {
            "event": "end",
            "index": index,
            **outcome,
            "name": name,
            "run_id": self.run_ids[index],
            "params": params,
        }
        self._write(self.rows[index])
        self.shown.finish(name, line, accuracy)

    def _name(self, index: int, params: Mapping[str, Any]) -> str:
        return f"{index:03d} {describe(params)}".strip()

    def close(self, status: str, seconds: float) -> dict[str, Any]:
        """End what is still open in MLflow; returns the outcome of the sweep."""
        for index in self.unfinished:
            self.tracker.finish(self.run_ids[index], status)
        settings = self.config.tune
        rows = [self.rows[i] for i in sorted(self.rows)]
        ended = [
            {k: v for k, v in row.items() if k != "event"}
            for row in rows
            if row["status"] != FAILED
        ]
        failed = [
            {k: row[k] for k in ("index", "name", "params", "run_id", "error")}
            for row in rows
            if row["status"] == FAILED
        ]
        best = (max if settings.mode == "max" else min)(
            ended, key=lambda row: row["score"], default=None
        )
        self.tracker.finish(
            self.parent,
            status,
            {"best/test_accuracy": best["best_test_accuracy"]} if best else {},
            {
                "fedsmu.trials": str(len(ended)),
                **({"fedsmu.best_run": best["run_id"]} if best else {}),
            },
        )
        return {
            "trials": ended,
            "best": best,
            "failed": failed,
            "name": self.config.name,
            "metric": settings.metric,
            "mode": settings.mode,
            "experiment": self.config.tracking.experiment,
            "tracking_uri": self.tracker.uri,
            "parent_run_id": self.parent,
            "folder": str(self.folder),
            "seconds": round(seconds, 3),
        }


def _cause(trial: Any) -> str:
    """What went wrong in a trial, in one line: the exception under the traceback Tune kept."""
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
    raised = list(re.finditer(r"^[\w.]*?(\w+): ", text, re.MULTILINE))
    lost = "ActorDiedError" in text or "actor died" in text
    if lost or not raised:
        return (
            "the trial's process was lost"
            if lost
            else "unknown cause; see " + str(trial.error_file)
        )
    return " ".join(text[raised[-1].start(1) :].split())
