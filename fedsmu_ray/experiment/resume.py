"""Experiments that survive interruptions: the folder of a run, and rounds from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from fedsmu_ray import plugins
from fedsmu_ray.config.schema import Config
from fedsmu_ray.errors import CheckpointError, LostError
from fedsmu_ray.experiment.checkpoint import MANIFEST, Checkpoint, Loaded, describe_problem
from fedsmu_ray.experiment.description import Description, Origin, Resumption
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.tasks import Arrays, Executor, StateRef
from fedsmu_ray.files.locks import folder_lock
from fedsmu_ray.files.remote import Place
from fedsmu_ray.files.run_folders import RUN, find_folder, make_folder
from fedsmu_ray.tracking.base import RoundCursor

log = logging.getLogger(__name__)

TRIAL_TIMEOUT_S = 60.0  # for the process of a lost trial to end
MAX_RESTARTS = 3  # in a row, without a new round between them


@contextmanager
def new_folder(config: Config) -> Iterator[Place | None]:
    """A new, private folder for a run, locked until the run has ended; None without checkpoints.

    It is removed again if the run does not `begin`.
    """
    if config.checkpoint.every is None:
        yield None
        return
    content, code = config.anywhere().to_yaml(), plugins.code_folders()
    with make_folder(RUN, config.checkpoint.folder, config.name, content, code) as folder:
        yield folder


@contextmanager
def old_folder(config: Config, resume: str | Place) -> Iterator[Place]:
    """The folder of an interrupted run, locked until the run has ended.

    resume: the folder, or "" for the latest one of this name in checkpoint.folder. Raises
    ConfigError if it is not the folder of a run, and LockedError, before anything in it is read or
    written, if its run is still alive.
    """
    folder = find_folder(RUN, resume, config.checkpoint.folder, config.name)
    with folder_lock(folder, f"the run in {folder}"):
        yield folder


@contextmanager
def trial_folder(folder: Place | None) -> Iterator[None]:
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
    problem: Problem, executor: Executor, progress: Progress, folder: Place | None
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
    origin = Origin.of(problem) if folder else None  # before a module of the user can be edited
    while True:
        try:
            if restarts:
                executor.recover()
                progress.reset()
            for record in _from_checkpoint(problem, executor, progress, folder, origin):
                if yielded.is_new(record.round):
                    yield record
                    yielded.advance(record.round)
                    restarts = 0
            return
        except LostError as error:
            restarts += 1
            if restarts > MAX_RESTARTS:
                raise
            again = "the last checkpoint" if folder else "round 1 (checkpoint.every is not set)"
            log.warning(
                "%s; restarting from %s (restart %d of at most %d in a row)",
                error,
                again,
                restarts,
                MAX_RESTARTS,
            )


def check_resume(problem: Problem, folder: Place) -> int:
    """Check that an experiment can continue from the checkpoint in `folder`, if there is one.

    Returns its round, 0 without one. Raises ConfigError for a checkpoint of another experiment or
    other data, and CheckpointError for a damaged one; logs a warning for other versions of the
    software.
    """
    checkpoint = Checkpoint(folder)
    loaded = checkpoint.load()
    if loaded:
        resumption = _checked(problem, checkpoint, loaded)
        resumption.warn()
        return resumption.saved.progress.round
    if leftover := checkpoint.array_files():
        log.warning(
            "%s: no %s, but %d array files; the experiment begins again at round 1",
            folder,
            MANIFEST,
            len(leftover),
        )
    return 0


def _from_checkpoint(
    problem: Problem,
    executor: Executor,
    progress: Progress,
    folder: Place | None,
    origin: Origin | None,
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
        if checkpoint and origin and every and progress.round >= saved + every:
            saved = progress.round
            with executor.spans.measure("checkpoint"):
                _save(origin.describe(progress), executor, progress, checkpoint)


def _save(
    described: Description, executor: Executor, progress: Progress, checkpoint: Checkpoint
) -> None:
    plain = described.plain()
    try:
        server = executor.export_state()
        checkpoint.save(progress.round, plain, server, progress.states.latest, executor.get_shard)
    except OSError as error:
        log.warning(
            "the checkpoint of round %d cannot be written (%s); the previous one is kept in %s",
            progress.round,
            error,
            checkpoint.folder,
        )


def save_now(problem: Problem, executor: Executor, progress: Progress, folder: Place) -> None:
    """Write a checkpoint between two rounds, apart from those of `checkpoint.every`.

    Nothing of the experiment may be run after it but from this checkpoint.
    """
    _save(Origin.of(problem).describe(progress), executor, progress, Checkpoint(folder))


def _restore(
    problem: Problem, executor: Executor, progress: Progress, checkpoint: Checkpoint, loaded: Loaded
) -> None:
    """Set progress and executor to the state in a checkpoint."""
    _checked(problem, checkpoint, loaded).saved.progress.restore(progress, problem)
    executor.restore_state(loaded.server)
    client_state = problem.method.client_init(problem.initial())
    for arrays, rows, file in loaded.shards():
        _check_state(checkpoint.folder / file.file, "clients", arrays, client_state, axes=1)
        has_old_rows = len(rows) < len(next(iter(arrays.values())))
        if has_old_rows:  # they are left out, and the next checkpoint gets a file without them
            kept = list(rows.values())
            arrays, rows = (
                {k: a[kept] for k, a in arrays.items()},
                dict(zip(rows, range(len(rows)))),
            )
        shard = executor.put_shard(arrays)
        if not has_old_rows:
            checkpoint.adopt(shard, file)
        progress.states.update({client: StateRef(shard, row) for client, row in rows.items()})


def _checked(problem: Problem, checkpoint: Checkpoint, loaded: Loaded) -> Resumption:
    """The description in a checkpoint that fits the experiment, as its server state does."""
    try:
        saved = Description.parse(loaded.progress)
    except ValidationError as error:
        path = checkpoint.folder / MANIFEST
        raise CheckpointError(f"{path}: {describe_problem(error, 'progress')}") from None
    resumption = Resumption(checkpoint.folder, saved, problem)
    resumption.check(loaded.clients)
    server_state = problem.method.server_init(problem.initial())
    _check_state(loaded.server_file, "server", loaded.server, server_state)
    return resumption


def _check_state(
    path: Place, whose: str, arrays: Arrays, state: Mapping[str, Tensor], axes: int = 0
) -> None:
    """Raise CheckpointError for arrays that are not this method's state of this model.

    axes: that the arrays have before those of `state`. Apart from those, a vector has to have the
    length of the one in `state`; of a tensor with rows only the last axis is compared, since a
    server may keep a row per client.
    """
    for name in sorted({*arrays, *state}):
        have, want = arrays.get(name), state.get(name)
        if have is None:
            found = "missing"
        elif want is None:
            found = "unknown"
        elif (str(have.dtype), have.ndim, have.shape[-1:]) != (
            str(want.dtype).removeprefix("torch."),
            want.ndim + axes,
            want.shape[-1:],
        ):
            found = f"{have.dtype} {have.shape}"
        elif not np.isfinite(have).all():
            found = "not finite"
        else:
            continue
        raise CheckpointError(
            f"{path}: the state of the {whose} does not fit this method and model ('{name}' is "
            f"{found})"
        )
