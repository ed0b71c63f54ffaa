"""From a configuration to a finished run: the one place that wires data, executor, rounds, tracking and display."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from fedsmu_ray.config.validation import Config
from fedsmu_ray.display.progress import RunDisplay
from fedsmu_ray.errors import CheckpointError, ConfigError, LostError
from fedsmu_ray.experiment.checkpoint import Checkpoint
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import Progress, Record, rounds, sample_cohort
from fedsmu_ray.federation.tasks import Executor, StateRef
from fedsmu_ray.numerics import parameters
from fedsmu_ray.tracking import mlflow as tracking

log = logging.getLogger(__name__)

SETBACKS = 3  # losses in a row, without a new round between them, after which a run gives up


@dataclass(frozen=True)
class Result:
    """A finished experiment."""

    summary: dict[str, Any]  # what `train --json` prints
    history: list[
        Record
    ]  # every round; of a resumed run's rounds before its checkpoint, the evaluated ones
    params: np.ndarray  # the final model vector, float32 [P]
    problem: Problem

    def model(self) -> nn.Module:
        """The trained model."""
        return parameters.load(self.problem.module(), torch.from_numpy(self.params.copy()))


def run(
    config: Config,
    address: str | None = None,
    resume: str | Path | None = None,
    display: bool = False,
) -> Result:
    """Run one experiment to its end.

    address: a Ray cluster to join; default: one on this machine. resume: the folder of an interrupted run of the same
    configuration; it goes on from its last checkpoint (from round 1 if it had none) to the same bits, in the same
    MLflow run. display: show progress on stderr. An interrupt or error ends the tracked run as KILLED or FAILED and is
    raised again.
    """
    began = time.perf_counter()
    problem = Problem.of(config)
    folder = _run_folder(config, resume)
    with ThreadPoolExecutor() as aside:  # MLflow takes seconds to open, and so does Ray to start
        opening = aside.submit(
            tracking.open_tracker, config.tracking, folder or config.checkpoint.folder
        )
        with (
            executor(problem, address) as (running, where),
            RunDisplay(config, problem.dim, where, display) as shown,
        ):
            tracker = opening.result()
            problem = (
                running.problem
            )  # over Ray it shares the actors' copy of the data; a second one would be kept here
            run_id, known = _begin(tracker, config, folder)
            try:
                progress, history = Progress(), []
                for record in resumable(problem, running, progress, folder):
                    history.append(record)
                    shown.update(record)
                    if record.test_accuracy is not None and record.round > known:
                        tracker.log(run_id, tracking.metrics(record), record.round)
                summary = summarize(
                    problem, progress, running.sha256(), time.perf_counter() - began
                )
                tracker.finish(
                    run_id,
                    "FINISHED",
                    final_metrics(summary),
                    {"model_sha256": summary["model_sha256"]},
                )
            except BaseException as error:
                tracker.finish(
                    run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                )
                if folder:
                    shown.say(
                        f"to go on from the last checkpoint: python -m fedsmu_ray.train --resume {folder}"
                    )
                raise
            return Result({"run_id": run_id, **summary}, history, running.params(), problem)


def _run_folder(config: Config, resume: str | Path | None) -> Path | None:
    """The folder of a run that keeps checkpoints, with its config.yaml; None for a run without."""
    if resume is not None:
        if not (Path(resume) / "config.yaml").is_file():
            raise ConfigError(
                [f"--resume {resume}: no run to go on with (a run's folder holds config.yaml)"]
            )
        return Path(resume)
    if config.checkpoint.every is None:
        return None
    folder = (
        Path(config.checkpoint.folder)
        / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return folder


def _begin(
    tracker: tracking.Tracker | tracking.NoTracker, config: Config, folder: Path | None
) -> tuple[str, int]:
    """The tracked run, taken up again if the folder names one, and the last round that it already has."""
    note = folder / "run_id" if folder else None
    if note and note.exists():
        return note.read_text(), tracker.resume(note.read_text())
    run_id = tracker.start(config.name, config)
    if note:
        note.write_text(run_id)
    return run_id, 0


def resumable(
    problem: Problem, running: Executor, progress: Progress, folder: Path | None
) -> Iterator[Record]:
    """The rounds of an experiment, from the checkpoint in `folder` if there is one (after the evaluated rounds before it,
    once more, for whoever lost them), with a new one every `checkpoint.every` rounds. `progress` is brought and kept up to
    date. A checkpoint that cannot be written costs a warning, and the one before stays. When something the experiment needs
    is lost (its server, a node and the client states on it), it goes back to the last checkpoint, or to round 1 without one,
    and yields on from where it was: the rounds it repeats have the same bits.

    Raises ConfigError for a checkpoint of another experiment, CheckpointError for a damaged one, and LostError when it is
    set back again and again.
    """
    told = setbacks = 0
    while True:
        try:
            if setbacks:
                running.recover()
                progress.__init__()
            for record in _rounds(problem, running, progress, folder):
                if record.round > told:
                    yield record
                    told, setbacks = record.round, 0
            return
        except LostError as error:
            setbacks += 1
            if setbacks > SETBACKS:
                raise
            log.warning(
                "%s; going back to %s (%d of at most %d times in a row)",
                error,
                "the last checkpoint"
                if folder
                else "round 1, since there are no checkpoints (checkpoint.every)",
                setbacks,
                SETBACKS,
            )


def _rounds(
    problem: Problem, running: Executor, progress: Progress, folder: Path | None
) -> Iterator[Record]:
    """`resumable`, as long as nothing is lost."""
    every = problem.config.checkpoint.every
    store = Checkpoint(folder) if folder else None
    if store and (loaded := store.load()):
        try:
            _same(problem.config, loaded.progress["config"], folder)
            _take_up(progress, loaded.progress["progress"], problem)
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise CheckpointError(
                f"{folder}: the checkpoint's progress is not what this program writes ({error!r})"
            ) from None
        _fits("server", loaded.server, problem.method.server_init(problem.initial()), folder)
        running.restore_state(loaded.server)
        state = problem.method.client_init(problem.initial())
        for arrays, rows, written in loaded.shards():
            _fits("clients", arrays, state, folder)
            shard = running.put_shard(arrays)
            store.written[shard] = written
            progress.states.update({client: StateRef(shard, row) for client, row in rows.items()})
        yield from list(progress.evaluated)
    saved = progress.round
    for record in rounds(problem, running, progress):
        yield record
        if store and every and progress.round >= saved + every:
            saved = progress.round
            described = {"config": problem.config.flat(), "progress": _described(progress)}
            places = {client: (at.shard, at.row) for client, at in progress.states.items()}
            try:
                store.save(progress.round, described, running.export_state(), places, running.get_shard)
            except OSError as error:
                log.warning(
                    "no checkpoint after round %d (%s); the one before is kept in %s",
                    progress.round,
                    error,
                    folder,
                )


def _described(progress: Progress) -> dict[str, Any]:
    """Progress as plain data, without the states; cohorts are left out, since they follow from the configuration."""
    plain = asdict(replace(progress, states={}))
    del plain["states"]
    for record in [*plain["evaluated"], plain["waiting"] or {}]:
        record.pop("cohort", None)
    return plain


def _take_up(progress: Progress, plain: dict[str, Any], problem: Problem) -> None:
    """Set `progress` to what `_described` gave."""

    def record(of: dict[str, Any]) -> Record:
        seed, clients, size = (
            problem.config.seed,
            problem.config.data.clients,
            problem.config.federation.cohort,
        )
        return _RECORD.validate_python(
            {**of, "cohort": tuple(sample_cohort(seed, of["round"], clients, size))}
        )

    for name in ("round", "uplink_bytes", "downlink_bytes", "dropped"):
        setattr(progress, name, _COUNT.validate_python(plain[name]))
    progress.waiting = record(plain["waiting"]) if plain["waiting"] else None
    progress.evaluated = [record(r) for r in plain["evaluated"]]


_RECORD, _COUNT = TypeAdapter(Record), TypeAdapter(Annotated[int, Field(ge=0, strict=True)])


def _fits(
    whose: str, arrays: Mapping[str, np.ndarray], state: Mapping[str, torch.Tensor], folder: Path
) -> None:
    """Raise CheckpointError for arrays that are not this method's state of this model (the server may keep rows of it)."""
    for name in sorted({*arrays, *state}):
        have, want = arrays.get(name), state.get(name)
        if (
            have is None
            or want is None
            or have.dtype != np.float32
            or have.shape[-1:] != want.shape[-1:]
        ):
            found = (
                "missing"
                if have is None
                else "unknown"
                if want is None
                else f"{have.dtype} {have.shape}"
            )
            raise CheckpointError(
                f"{folder}: the checkpoint's state of the {whose} does not fit this method and model "
                f"('{name}' is {found})"
            )


# What may differ between a checkpoint and the run that goes on from it: no bits depend on it, or it comes later.
_FREE = (
    "name",
    "federation.rounds",
    "federation.client_timeout_s",
    "federation.client_retries",
    "compute.executor",
    "compute.actors",
    "checkpoint.every",
    "checkpoint.folder",
)


def _same(config: Config, before: dict[str, Any], folder: Path) -> None:
    now = json.loads(json.dumps(config.flat()))
    changed = sorted(k for k in now | before if k not in _FREE and now.get(k) != before.get(k))
    if changed:
        raise ConfigError(
            [
                f"--resume {folder}: its checkpoint is of another experiment (differs in {', '.join(changed)}); "
                "give the same configuration, or start a new run"
            ]
        )


@contextmanager
def executor(problem: Problem, address: str | None) -> Iterator[tuple[Executor, str]]:
    """The executor of the configuration, loaded with the problem, and a line that says where it runs."""
    compute = problem.config.compute
    if compute.executor == "inline":
        from fedsmu_ray.executors.inline import InlineExecutor

        opened = InlineExecutor(problem)
        try:
            yield opened, "this process"
        finally:
            opened.close()
        return
    from fedsmu_ray.executors import ray_cluster
    from fedsmu_ray.executors.ray_executor import RayExecutor

    with ray_cluster.cluster(address) as where:
        groups = -(-problem.config.federation.cohort // problem.group_size)
        ray_cluster.check_actors(compute, address)
        count = compute.actors or min(groups, ray_cluster.fitting_actors(compute))
        opened = RayExecutor(compute, count)
        try:
            opened.load(problem)
            del problem
            yield opened, f"{count} client actor{'s' * (count > 1)} on {where}"
        finally:
            opened.close()


def summarize(
    problem: Problem, progress: Progress, sha256: str | None, seconds: float
) -> dict[str, Any]:
    """The figures a run is compared by. Accuracies are in [0, 1], bytes are totals over rounds and clients."""
    last, best = progress.last, progress.best
    federation = problem.config.federation
    return {
        "name": problem.config.name,
        "method": problem.config.method_name,
        "rounds": last.round,
        "test_accuracy": last.test_accuracy,
        "test_loss": last.test_loss,
        "train_loss": last.train_loss,
        "best_test_accuracy": best.test_accuracy,
        "best_round": best.round,
        "uplink_bytes": last.uplink_bytes,
        "downlink_bytes": last.downlink_bytes,
        "dropped": last.dropped,
        "clients": problem.config.data.clients,
        "cohort": federation.cohort,
        "dim": problem.dim,
        "model_sha256": sha256,
        "seconds": round(seconds, 3),
    }


def final_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Scalars that the MLflow run table can sort by."""
    return {
        "final/test_accuracy": summary["test_accuracy"],
        "final/test_loss": summary["test_loss"],
        "final/train_loss": summary["train_loss"],
        "final/uplink_bytes": summary["uplink_bytes"],
        "final/downlink_bytes": summary["downlink_bytes"],
        "final/seconds": summary["seconds"],
        "best/test_accuracy": summary["best_test_accuracy"],
        "best/round": summary["best_round"],
    }
