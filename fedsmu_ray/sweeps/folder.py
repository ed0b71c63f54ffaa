"""The folder of a sweep, `<tune.storage>/<name>-<time>/`, and what it records.

    sweep.yaml      the configuration of the sweep
    trials.jsonl    one line per event: the sweep or a trial has started, a trial has ended
    ray/            files of Ray Tune
    profile/        the traces of a profiled sweep, one file per trial
    .lock           held by the process of the sweep
    checkpoint-003/ the checkpoints of a trial
    model-003.safetensors  the model of a trial (`tracking.models`; the best one's by default)

A sweep is resumed from the first two and the checkpoints, however it ended; nothing is unpickled.
Behind a URI (`tune.storage=s3://...`) it has all of this but `ray/`, which stays on this host.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsmu_ray import plugins
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.schema import Config
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.experiment.description import data_changed
from fedsmu_ray.files import secrets
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.locks import check_owner, folder_lock
from fedsmu_ray.files.remote import Place, RemotePath, local_place
from fedsmu_ray.files.run_folders import SWEEP, find_folder, make_folder
from fedsmu_ray.files.valid_json import to_json, without_nan
from fedsmu_ray.sweeps.space import Params

# status of a trial that ended with an error; it is run again when the sweep is resumed
FAILED = "failed"

log = logging.getLogger(__name__)


def trace_file(folder: Place, index: int) -> Place:
    """The trace of a trial, in the folder of the sweep."""
    return folder / "profile" / f"trial-{index:03d}.json"


def model_file(folder: Place, index: int) -> Place:
    """The file of a trial's model, in the folder of the sweep."""
    return folder / f"model-{index:03d}.safetensors"


def models_in(folder: Place) -> set[int]:
    """The trials, by index, whose models are in the folder of the sweep."""
    names = (re.fullmatch(r"model-(\d+)\.safetensors", file.name) for file in folder.iterdir())
    return {int(name[1]) for name in names if name}


def traces(folder: Place) -> list[Place]:
    """The traces of the trials that have ended, by index."""
    profile = folder / "profile"
    files: list[Place] = list(profile.iterdir()) if profile.exists() else []
    named = [file for file in files if re.fullmatch(r"trial-\d+\.json", file.name)]
    return sorted(named, key=lambda file: (len(file.name), file.name))


def tune_folder(folder: Place) -> Path:
    """An absolute path on this host for the files of Tune: the folder of the sweep, if it can be.

    A sweep behind a URI has another one, of the same name.
    """
    if isinstance(folder, Path):
        return folder.absolute()
    local = (local_place(folder) / folder.name).absolute()
    local.mkdir(mode=0o700, parents=True, exist_ok=True)
    return local


def trial_checkpoints(folder: Place, index: int) -> Place:
    """The folder of a trial's checkpoints, in the folder of the sweep."""
    return folder / f"checkpoint-{index:03d}"


@contextmanager
def new_folder(config: Config) -> Iterator[Place]:
    """A new, private folder for a sweep, locked until the sweep has ended.

    It is removed again if the sweep does not `begin`.
    """
    content, code = config.anywhere().to_yaml(), plugins.code_folders()
    with make_folder(SWEEP, config.tune.storage, config.name, content, code) as folder:
        yield folder


@contextmanager
def old_folder(config: Config, resume: str) -> Iterator[Place]:
    """The folder of an interrupted sweep, locked until the sweep has ended.

    resume: a folder, or "" for the latest one of this name. Raises ConfigError if there is none, or
    if it belongs to another configuration, and LockedError, before anything in it is read, if its
    sweep is still running.
    """
    folder = find_folder(SWEEP, resume, config.tune.storage, config.name)
    with folder_lock(folder, f"the sweep in {folder}"):
        _check_same(config, folder)
        yield folder


def _check_same(config: Config, folder: Place) -> None:
    """Raise ConfigError if the sweep in the folder has another configuration."""
    old, new = _trials_of(load_config(folder / SWEEP.file)), _trials_of(config)
    if changed := sorted(key for key in old | new if old.get(key) != new.get(key)):
        raise ConfigError(
            [
                f"--resume {folder}: the sweep was started with another configuration (differs in "
                f"{', '.join(changed)}); give the same one, or start a new sweep"
            ]
        )


def _trials_of(config: Config) -> dict[str, Any]:
    """The settings that decide which trials a sweep has and how they are compared."""
    tune = secrets.cut(asdict(config.tune))
    decisive = {f"tune.{key}": value for key, value in tune.items()}
    decisive |= {**config.flat(), "tune.mode": config.tune.direction}
    # Where, how many at once, how patiently, and what is told at the end.
    others = (
        "tune.storage",
        "tune.concurrent",
        "compute.wait_s",
        "federation.targets",
        "tune.compare_to",
    )
    return {key: value for key, value in decisive.items() if key not in others}


class SweepFolder:
    """The folder of a sweep and the state of its trials.

    Every change of state is appended to trials.jsonl at once.
    """

    def __init__(self, path: Place) -> None:
        """Read what is recorded in an existing folder."""
        self.path = path
        self.data = ""  # digest of the data; "" in a new sweep, or one of an earlier release
        self.parent_run = ""  # id of the tracked run of the sweep
        self.run_ids: dict[int, str] = {}  # of the trials that have started, by index
        self.unfinished: dict[int, Params] = {}  # trials that have started and not ended
        self.ended: dict[int, dict[str, Any]] = {}  # events of the trials that have ended
        # Whether the last line may be incomplete, as after a crash.
        self.needs_newline = (path / "trials.jsonl").exists()
        for event in self.events():
            # A failed trial counts as unfinished here: it is repeated, in the same tracked run.
            if event.get("status") != FAILED:
                self._apply(event)

    def events(self) -> list[dict[str, Any]]:
        """The recorded events, without lines that a crash left incomplete."""
        file = self.path / "trials.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [event for line in lines if (event := _parse(line)) is not None]

    def check_data(self, config: Config, digest: str) -> None:
        """Raise ConfigError if trials of the sweep were trained on other data.

        digest: `Dataset.digest` of the data as it is now.
        """
        if self.data not in ("", digest):
            since = "the sweep was started"
            raise data_changed(SWEEP, self.path, config, since, digest, self.data)

    def data_loaded(self, digest: str) -> None:
        """Record what data the trials are trained on, once."""
        if not self.data:
            self._record({"event": "data", "digest": digest})

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
            case "data":
                self.data = event["digest"]
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
        line = ("\n" if self.needs_newline else "") + to_json(event) + "\n"
        try:
            if isinstance(file, RemotePath):
                self._append_remote(file, line)
            else:
                with open(file, "a", encoding="utf-8") as stream:
                    stream.write(line)
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

    def _append_remote(self, file: RemotePath, line: str) -> None:
        """Write the file anew: an object store appends nothing."""
        check_owner(self.path)
        before = file.read_text() if file.exists() else ""
        write(file, before + line)


def _parse(line: str) -> dict[str, Any] | None:
    """The event of a line; None if the line is incomplete."""
    try:
        # Earlier versions wrote NaN.
        event: dict[str, Any] = json.loads(line, parse_constant=lambda name: None)
        return event
    except json.JSONDecodeError:
        return None
