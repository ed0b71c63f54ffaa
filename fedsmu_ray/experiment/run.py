"""One experiment from its configuration to its result.

It connects executor, rounds, tracking and display.
"""

from __future__ import annotations

import html
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsmu_ray.config.schema import Config
from fedsmu_ray.display.profile import Profile, write_trace
from fedsmu_ray.display.progress import RunProgress, print_start
from fedsmu_ray.display.results import run_in_words
from fedsmu_ray.environment import results_path
from fedsmu_ray.errors import TakenOverError
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.experiment.checkpoint import MANIFEST
from fedsmu_ray.experiment.client_table import CLIENTS, clients_csv, keep_clients
from fedsmu_ray.experiment.kept_model import keep_model
from fedsmu_ray.experiment.model_file import TrainedModel, save_model
from fedsmu_ray.experiment.provenance import provenance
from fedsmu_ray.experiment.resume import check_resume, new_folder, old_folder, resumable
from fedsmu_ray.experiment.summary import summarize
from fedsmu_ray.experiment.tracking import (
    DATA_DIGEST,
    ended_tags,
    new_run,
    open_tracker,
    where_tracked,
)
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.tasks import Executor
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place, local_place, place
from fedsmu_ray.files.run_folders import RUN, begin, new_name
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.isolation import isolated
from fedsmu_ray.processes import guard
from fedsmu_ray.tracking.base import Tracker
from fedsmu_ray.tracking.metrics import final_metrics, tracked
from fedsmu_ray.tracking.registry import check_packages

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RUN_ID_FILE = "run_id"  # in the folder of a run that is tracked
_one_run = threading.RLock()  # held by the run of this process that trains


@dataclass(frozen=True, repr=False)
class Result:
    """A finished experiment."""

    summary: dict[str, Any]  # what `train --json` prints
    history: list[Record]  # all rounds; before a checkpoint it was resumed from, the evaluated ones
    params: NDArray[np.float32]  # the final model vector [P]
    problem: Problem
    profile: Profile | None = None  # where the time went, if that was asked for
    trace: Path | None = None  # the file with it

    def __repr__(self) -> str:
        return f"Result({run_in_words(self.summary)})"

    def _repr_html_(self) -> str:
        """For a notebook: the results in words, and the evaluated rounds as a table."""
        rounds = [record.round for record in self.history if record.is_evaluated]
        evaluated = self.frame().loc[rounds].dropna(axis=1, how="all")
        return f"<p>{html.escape(run_in_words(self.summary))}</p>{evaluated._repr_html_()}"

    def frame(self) -> pd.DataFrame:
        """The rounds as a table, with the fields of `Record` but the cohort; its index: the round.

        Metrics of the task have columns of their own, such as `test/f1_macro`.
        What was not measured in a round, such as the accuracy between evaluations, is NaN.
        """
        import pandas as pd

        rows = [{**asdict(record), **record.scores} for record in self.history]
        frame = pd.DataFrame(rows).drop(columns=["cohort", "scores"])
        return frame.set_index("round").astype(float)

    def model(self) -> nn.Module:
        """The trained model."""
        return parameters.load_into(self.problem.module(), torch.from_numpy(self.params.copy()))

    def save(self, path: str | Path) -> None:
        """Write the trained model to a file, which `load_model` reads; a path or a URI.

        A relative path is below $FEDSMU_RESULTS, if that is set. Raises OSError.
        """
        save_model(place(path), TrainedModel.of(self.problem, self.params))


def run(
    config: Config,
    address: str | None = None,
    resume: str | Place | None = None,
    display: bool = False,
    profile: str | Path | None = None,
) -> Result:
    """Run one experiment to its end.

    address: a Ray cluster to join; default: a local one. resume: the folder of an interrupted run
    of the same configuration, or "" for the latest one of this name; it continues from its last
    checkpoint (or round 1) in the same tracked run, and gives the same bits. display: show progress
    on stderr. profile: measure where the time of a round goes and write a trace to this file
    (`*.json`) or into this folder, also if the run fails; the result has the same bits.

    An interrupt or error ends the tracked run as KILLED or FAILED and is raised again.
    The folder of the run is locked until then: LockedError, which names the process, is raised for
    a run that is still alive.

    Neither the process-wide generators (of Python, NumPy and PyTorch) nor settings such as the
    default dtype change the result, and they are as they were afterwards. As they belong to the
    whole process, runs in several threads wait for each other.
    """
    with _one_run, isolated(config.seed), ExitStack() as held:
        began = time.perf_counter()
        check_packages(config.tracking.also, config.tracking.system_metrics)
        # The folder of the run is held to the end.
        folder = None if resume is None else held.enter_context(old_folder(config, resume))
        trace = None if profile is None else _trace_file(profile, config.name)
        print_start(config, display)
        problem = replace(Problem.of(config), profiled=trace is not None)
        done = check_resume(problem, folder) if folder else 0
        if not folder:
            folder = held.enter_context(new_folder(config))
        opened = backend(config.compute.executor).open(problem, address)
        del problem  # on Ray its data goes to the store, so ours can be released
        return _run(config, opened, folder, done, display, began, trace)


def _run(
    config: Config,
    opened: AbstractContextManager[tuple[Executor, str]],
    folder: Place | None,
    done: int,
    display: bool,
    began: float,
    trace: Path | None,
) -> Result:
    """Run an experiment whose data is loaded and whose folder is locked.

    opened: its executor, which starts here. done: rounds of the checkpoint. trace: the file for the
    trace of a profiled run.
    """
    # MLflow and Ray take seconds to start, so both start at once.
    with ThreadPoolExecutor() as background:
        opening = background.submit(
            open_tracker, config, local_place(folder or config.checkpoint.folder)
        )
        with (
            opened as (executor, where),
            RunProgress(config, executor.problem.dim, where, display, done) as shown,
        ):
            problem = executor.problem
            tracker = opening.result()
            run_id = _start(tracker, problem, folder)
            if folder:
                _note(folder, tracker, run_id)
            resume_command = RUN.resume_command(folder) if folder else ""
            guard.note_resume_command(resume_command)
            try:
                history, summary = _train(executor, folder, tracker, run_id, shown, began)
            except TakenOverError:
                raise  # the tracked run belongs to the other process, too
            except BaseException as error:
                is_interrupt = isinstance(error, KeyboardInterrupt)
                tracker.finish(run_id, "KILLED" if is_interrupt else "FAILED")
                if resume_command:
                    shown.print_line(f"to resume from the last checkpoint: {resume_command}")
                raise
            finally:
                profile = write_trace(executor.spans.spans, trace) if trace else None
            summary = {"run_id": run_id, **summary, **where_tracked(config, tracker)}
            return Result(summary, history, executor.params(), problem, profile, trace)


def _trace_file(given: str | Path, name: str) -> Path:
    """The file for the trace of a profiled run, in a folder that exists."""
    file = results_path(given)
    if file.suffix != ".json":
        file = file / f"profile-{new_name(name)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _start(tracker: Tracker, problem: Problem, folder: Place | None) -> str:
    """Start the tracked run, or resume the one that the folder names; returns its id.

    "" without tracking; the folder then keeps the id of a run that was tracked before.
    """
    before = _tracked_run(folder)
    config = problem.config
    if tracker.uri is None and not config.tracking.also:
        if before:
            log.warning("tracking is off: run %s in MLflow does not get the rest", before)
        return ""
    tags = {**provenance(config.compute), DATA_DIGEST: problem.dataset.digest()}
    run = new_run(config.name, config, tags)
    if folder and not before and (folder / MANIFEST).exists():
        log.warning(
            "%s names no run in MLflow, as after a run without tracking: a new one gets everything "
            "from round 1",
            folder / RUN_ID_FILE,
        )
    return tracker.resume(before, run) if before else tracker.start(run)


def _note(folder: Place, tracker: Tracker, run_id: str) -> None:
    """Write into its folder which run has begun; nothing can refuse it any more."""
    try:
        if run_id not in ("", _tracked_run(folder)):
            write(folder / RUN_ID_FILE, run_id)
        begin(RUN, folder)
    except OSError:
        tracker.finish(run_id, "FAILED")
        raise


def _tracked_run(folder: Place | None) -> str:
    """The id of the tracked run that a folder names; "" if it names none."""
    try:
        text = (folder / RUN_ID_FILE).read_text(encoding="utf-8") if folder else ""
    except (OSError, ValueError):
        return ""
    return text if re.fullmatch(r"[\w-]{1,256}", text) else ""


def _train(
    executor: Executor,
    folder: Place | None,
    tracker: Tracker,
    run_id: str,
    shown: RunProgress,
    began: float,
) -> tuple[list[Record], dict[str, Any]]:
    """Train to the end and finish the tracked run; returns the records and the summary."""
    problem, progress, history = executor.problem, Progress(), []
    for record in resumable(problem, executor, progress, folder):
        history.append(record)
        shown.update(record)
        if record.is_evaluated:
            tracker.log(run_id, tracked(record), record.round)
    seconds = time.perf_counter() - began
    summary = summarize(problem, progress, executor.sha256(), seconds, executor.trained_on)
    keep_model(executor, summary, folder, tracker, run_id)
    table = clients_csv(progress.last.round, progress.clients)
    keep_clients(folder / CLIENTS if folder else None, table, tracker, run_id)
    tracker.finish(run_id, "FINISHED", final_metrics(summary), ended_tags(summary))
    shown.end(summary["rounds"], summary.get("stopped"))
    return history, summary
