"""Runs as files that every program reads: for each a folder with its rounds as CSV.

metrics.csv    one row per evaluated round
run.json       id, name, parent, status, parameters, tags, final metrics
config.yaml    the configuration
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsmu_ray.files.folders import write
from fedsmu_ray.files.valid_json import to_json
from fedsmu_ray.tracking.base import NewFile, NewRun, RunStatus
from fedsmu_ray.tracking.metrics import GENERAL, METRICS
from fedsmu_ray.tracking.run_folders import FolderTracker, RunWriter

COLUMNS = ("round", *(metric.name for metric in GENERAL))  # and those of the task


class CSVTracker(FolderTracker):
    """Writes every run into CSV and JSON files."""

    def open(self, run_id: str, run: NewRun, folder: Path) -> RunWriter:
        """Begin a run, or continue the one that the folder has."""
        return CSVWriter(run_id, run, folder)


class CSVWriter(RunWriter):
    """Writes the files of a run."""

    def __init__(self, run_id: str, run: NewRun, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.about = folder / "metrics.csv", folder / "run.json"
        self.run: dict[str, Any] = {
            "id": run_id,
            "name": run.name,
            "parent": run.parent,
            "status": "RUNNING",
            "params": dict(run.params),
            "tags": dict(run.tags),
            "metrics": {},
        }
        if self.about.exists():  # what an earlier end has added
            before = json.loads(self.about.read_text(encoding="utf-8"))
            self.run["tags"] = {**before["tags"], **self.run["tags"]}
        for name, text in run.files.items():
            write(folder / name, text)
        write(self.about, to_json(self.run) + "\n")
        further = {*run.metrics}
        of_task = (
            m.name for m in METRICS if m.of_task and {m.name, m.name.split("/")[1]} & further
        )
        self.columns = (*COLUMNS, *of_task)
        self.last_round = self._repair()

    def _repair(self) -> int:
        """Begin the file, or cut off a row that a crash left incomplete; returns its last round."""
        lines = self.rows.read_text(encoding="utf-8").splitlines(True) if self.rows.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines) or not whole:
            write(self.rows, "".join(whole) or ",".join(self.columns) + "\n")
        return int(whole[-1].partition(",")[0]) if len(whole) > 1 else 0

    def log(self, metrics: Mapping[str, float], round: int) -> None:
        """Append a row; a metric that was not measured is empty."""
        with open(self.rows, "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({"round": round, **metrics})

    def log_file(self, file: NewFile) -> None:
        """Write a file beside them."""
        write(self.about.with_name(file.name), file.text)

    def finish(
        self, status: RunStatus, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Write the status, final metrics and tags."""
        self.run |= {"status": status, "metrics": dict(metrics)}
        self.run["tags"] |= tags
        write(self.about, to_json(self.run) + "\n")
