"""The folder of a sweep, `<tune.storage>/<name>-<time>/`, and what it records.

    sweep.yaml      the configuration of the sweep
    trials.jsonl    one line per event: the sweep or a trial has started, a trial has ended
    ray/            files of Ray Tune

A sweep is resumed from the first two, however it ended; nothing is unpickled.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.schema import Config
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import secrets
from fedsmu_ray.files.valid_json import to_json, without_nan
from fedsmu_ray.sweeps.space import Params

# status of a trial that ended with an error; it is run again when the sweep is resumed
FAILED = "failed"

log = logging.getLogger(__name__)


def find_folder(config: Config, resume: str | None) -> Path:
    """The name of a new folder, or the folder to resume from.

    resume: None for a new sweep, a folder, or "" for the latest one of this name. Raises
    ConfigError if there is none, or if it belongs to another configuration.
    """
    storage = Path(config.tune.storage)
    if resume is None:
        return storage / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    if resume:
        found = [Path(resume)]
    else:
        found = sorted(path.parent for path in storage.glob(f"{config.name}-*/sweep.yaml"))
    if not found or not (found[-1] / "sweep.yaml").exists():
        raise ConfigError(
            [
                f"--resume {resume}: no sweep to resume in {resume or storage} (the folder of a "
                "sweep has a file sweep.yaml)"
            ]
        )
    _check_same(config, found[-1])
    return found[-1]


def _check_same(config: Config, folder: Path) -> None:
    """Raise ConfigError if the sweep in the folder has another configuration."""
    before = load_config(folder / "sweep.yaml")
    old, new = before.flat(), config.flat()
    changed = {key for key in old | new if old.get(key) != new.get(key)}
    if secrets.cut(asdict(before.tune)) != secrets.cut(asdict(config.tune)):
        changed.add("tune")
    if changed:
        raise ConfigError(
            [
                f"--resume {folder}: the sweep was started with another configuration (differs in "
                f"{', '.join(sorted(changed))}); give the same one, or start a new sweep"
            ]
        )


class SweepFolder:
    """The folder of a sweep, new or to be resumed, and the state of its trials.

    Every change of state is appended to trials.jsonl at once.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """Create the folder, or read what is recorded in it."""
        self.path = path
        self.parent_run = ""  # id of the tracked run of the sweep
        self.run_ids: dict[int, str] = {}  # of the trials that have started, by index
        self.unfinished: dict[int, Params] = {}  # trials that have started and not ended
        self.ended: dict[int, dict[str, Any]] = {}  # events of the trials that have ended
        # Whether the last line may be incomplete, as after a crash.
        self.needs_newline = path.exists()
        if not path.exists():
            path.mkdir(parents=True)
            (path / "sweep.yaml").write_text(config.anywhere().to_yaml(), encoding="utf-8")
        for event in self.events():
            # A failed trial counts as unfinished here: it is repeated, in the same tracked run.
            if event.get("status") != FAILED:
                self._apply(event)

    def events(self) -> list[dict[str, Any]]:
        """The recorded events, without lines that a crash left incomplete."""
        file = self.path / "trials.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [event for line in lines if (event := _parse(line)) is not None]

    def sweep_started(self, run_id: str) -> None:
        """Record the sweep's own run."""
        self._record({"event": "sweep", "run_id": run_id})

    def trial_started(self, index: int, params: Params, run_id: str) -> None:
        """Record the start of a trial."""
        self._record({"event": "start", "index": index, "params": params, "run_id": run_id})

    def trial_ended(self, index: int, name: str, outcome: Mapping[str, Any]) -> None:
        """Record the outcome of a started trial.

        outcome: its `status`, and its summary and score, or its `error`.
        """
        self._record(
            {
                "event": "end",
                "index": index,
                **outcome,
                "name": name,
                "run_id": self.run_ids[index],
                "params": self.unfinished[index],
            }
        )

    def _record(self, event: dict[str, Any]) -> None:
        event = without_nan(event)  # what is recorded is what a resumed sweep will read
        self._apply(event)
        self.append(event)

    def _apply(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "sweep":
                self.parent_run = event["run_id"]
            case "start":
                self.unfinished[event["index"]] = event["params"]
                self.run_ids[event["index"]] = event["run_id"]
            case "end":
                self.unfinished.pop(event["index"], None)
                self.ended[event["index"]] = event

    def append(self, event: Mapping[str, Any]) -> None:
        """Append an event to trials.jsonl. A full disk does not stop the sweep, only its record."""
        file = self.path / "trials.jsonl"
        try:
            with open(file, "a", encoding="utf-8") as stream:
                stream.write(("\n" if self.needs_newline else "") + to_json(event) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            self.needs_newline = False
        except OSError as error:
            self.needs_newline = True  # a part of the line may have been written
            log.warning(
                "%s: cannot be written (%s); a resumed sweep would run this trial again",
                file,
                error,
            )


def _parse(line: str) -> dict[str, Any] | None:
    """The event of a line; None if the line is incomplete."""
    try:
        # Earlier versions wrote NaN.
        event: dict[str, Any] = json.loads(line, parse_constant=lambda name: None)
        return event
    except json.JSONDecodeError:
        return None
