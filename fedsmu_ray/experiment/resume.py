"""Experiments that survive interruptions: the folder of a run, and rounds from a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from fedsmu_ray.config.schema import Config
from fedsmu_ray.errors import CheckpointError, ConfigError, LostError
from fedsmu_ray.experiment.checkpoint import Checkpoint, Loaded
from fedsmu_ray.experiment.summary import CONFIG_FILE
from fedsmu_ray.federation.cohort import sample_cohort
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.tasks import Arrays, Executor, StateRef
from fedsmu_ray.files.folders import private_folder, write
from fedsmu_ray.files.locks import folder_lock
from fedsmu_ray.tracking.base import RoundCursor

log = logging.getLogger(__name__)

TRIAL_TIMEOUT_S = 60.0  # for the process of a lost trial to end
MAX_RESTARTS = 3  # in a row, without a new round between them

# Keys that may differ between a checkpoint and the run that resumes from it: the result does not
# depend on them.
MAY_DIFFER = (
    "name",
    "federation.rounds",
    "federation.client_timeout_s",
    "federation.client_retries",
    "compute.executor",
    "compute.actors",
    "checkpoint.every",
    "checkpoint.folder",
)
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)
_COUNT: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, strict=True)])


@contextmanager
def new_folder(config: Config) -> Iterator[Path | None]:
    """A new, private folder for a run, locked until the run has ended; None without checkpoints."""
    if config.checkpoint.every is None:
        yield None
        return
    name = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder = private_folder(Path(config.checkpoint.folder) / name)
    with folder_lock(folder, f"the run in {folder}"):
        write(folder / CONFIG_FILE, config.to_yaml())
        yield folder


@contextmanager
def old_folder(folder: Path) -> Iterator[Path]:
    """The folder of an interrupted run, locked until the run has ended.

    Raises ConfigError if it is not the folder of a run, and LockedError, before anything in it is
    read or written, if its run is still alive.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError([f"--resume {folder}: not the folder of a run (no {CONFIG_FILE} in it)"])
    with folder_lock(folder, f"the run in {folder}"):
        yield folder


@contextmanager
def trial_folder(folder: Path | None) -> Iterator[None]:
    """Make or find the folder of a trial's checkpoints, and lock it until the trial has ended.

    Waits for the process of a trial that Tune has started again: it may still be ending. folder:
    None without checkpoints.
    """
    if folder is None:
        yield
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder_lock(folder, f"the trial in {folder}", TRIAL_TIMEOUT_S):
        yield


def resumable(
    problem: Problem, executor: Executor, progress: Progress, folder: Path | None
) -> Iterator[Record]:
    """The rounds of an experiment, from the checkpoint in `folder` if there is one.

    Yields the evaluated rounds before the checkpoint once more, for readers that have lost them. A
    new checkpoint is written every `checkpoint.every` rounds; if it cannot be written, a warning is
    logged and the previous one is kept. `progress` is kept up to date. After a LostError (of the
    server, or of a node with client states) the experiment restarts from the last checkpoint, or
    else from round 1; the rounds it repeats have the same bits and are not yielded again.

    Raises ConfigError for a checkpoint of another experiment, CheckpointError for a damaged one,
    and LostError after MAX_RESTARTS restarts without a new round.
    """
    yielded, restarts = RoundCursor(), 0
    while True:
        try:
            if restarts:
                executor.recover()
                progress.reset()
            for record in _from_checkpoint(problem, executor, progress, folder):
                if yielded.is_new(record.round):
                    yield record
                    yielded.advance(record.round)
                    restarts = 0
            return
        except LostError as error:
            restarts += 1
            if restarts > MAX_RESTARTS:
                raise
            origin = "the last checkpoint" if folder else "round 1 (checkpoint.every is not set)"
            log.warning(
                "%s; restarting from %s (restart %d of at most %d in a row)",
                error,
                origin,
                restarts,
                MAX_RESTARTS,
            )


def _from_checkpoint(
    problem: Problem, executor: Executor, progress: Progress, folder: Path | None
) -> Iterator[Record]:
    """`resumable` up to the first LostError."""
    every = problem.config.checkpoint.every
    checkpoint = Checkpoint(folder) if folder else None
    if checkpoint and (loaded := checkpoint.load()):
        _restore(problem, executor, progress, checkpoint, loaded)
        yield from list(progress.evaluated)
    saved = progress.round
    for record in rounds(problem, executor, progress):
        yield record
        if checkpoint and every and progress.round >= saved + every:
            saved = progress.round
            _save(problem, executor, progress, checkpoint)


def _save(problem: Problem, executor: Executor, progress: Progress, checkpoint: Checkpoint) -> None:
    described = {"config": problem.config.flat(), "progress": _describe(progress)}
    try:
        server = executor.export_state()
        checkpoint.save(progress.round, described, server, progress.states, executor.get_shard)
    except OSError as error:
        log.warning(
            "the checkpoint of round %d cannot be written (%s); the previous one is kept in %s",
            progress.round,
            error,
            checkpoint.folder,
        )


def _restore(
    problem: Problem, executor: Executor, progress: Progress, checkpoint: Checkpoint, loaded: Loaded
) -> None:
    """Set progress and executor to the state in a checkpoint."""
    folder, method = checkpoint.folder, problem.method
    try:
        _check_config(problem.config, loaded.progress["config"], folder)
        _restore_progress(progress, loaded.progress["progress"], problem.config)
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise CheckpointError(
            f"{folder}: the progress in the checkpoint is not in this program's format ({error!r})"
        ) from None
    _check_state("server", loaded.server, method.server_init(problem.initial()), folder)
    executor.restore_state(loaded.server)
    client_state = method.client_init(problem.initial())
    for arrays, rows, file in loaded.shards():
        _check_state("clients", arrays, client_state, folder)
        shard = executor.put_shard(arrays)
        checkpoint.adopt(shard, file)
        progress.states.update({client: StateRef(shard, row) for client, row in rows.items()})


def _describe(progress: Progress) -> dict[str, Any]:
    """Progress as plain data.

    Without the client states, which have files of their own, and the cohorts, which follow from the
    configuration.
    """
    plain = asdict(replace(progress, states={}))
    del plain["states"]
    for record in [*plain["evaluated"], plain["waiting"] or {}]:
        record.pop("cohort", None)
    return plain


def _restore_progress(progress: Progress, plain: Mapping[str, Any], config: Config) -> None:
    """Set `progress` to what `_describe` returned."""
    clients, size = config.data.clients, config.federation.cohort

    def to_record(values: Mapping[str, Any]) -> Record:
        cohort = tuple(sample_cohort(config.seed, values["round"], clients, size))
        return _RECORD.validate_python({**values, "cohort": cohort})

    for name in ("round", "uplink_bytes", "downlink_bytes", "dropped"):
        setattr(progress, name, _COUNT.validate_python(plain[name]))
    progress.waiting = to_record(plain["waiting"]) if plain["waiting"] else None
    progress.evaluated = [to_record(values) for values in plain["evaluated"]]


def _check_state(whose: str, arrays: Arrays, state: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError for arrays that are not this method's state of this model.

    Only the last axis is compared: clients and the server may keep rows of a tensor.
    """
    for name in sorted({*arrays, *state}):
        have, want = arrays.get(name), state.get(name)
        if have is None:
            found = "missing"
        elif want is None:
            found = "unknown"
        elif have.dtype != np.float32 or have.shape[-1:] != want.shape[-1:]:
            found = f"{have.dtype} {have.shape}"
        else:
            continue
        raise CheckpointError(
            f"{folder}: the checkpoint's state of the {whose} does not fit this method and model "
            f"('{name}' is {found})"
        )


def _check_config(config: Config, saved: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError if a checkpoint belongs to another experiment.

    saved: the flat configuration in the checkpoint.
    """
    now = json.loads(json.dumps(config.flat()))
    changed = sorted(
        key for key in now | saved if key not in MAY_DIFFER and now.get(key) != saved.get(key)
    )
    if changed:
        raise ConfigError(
            [
                f"--resume {folder}: its checkpoint belongs to another experiment (differs in "
                f"{', '.join(changed)}); give the same configuration, or start a new run"
            ]
        )
