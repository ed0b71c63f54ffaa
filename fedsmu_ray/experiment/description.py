"""What a checkpoint says of its experiment: configuration, progress, data and versions.

Whether it fits the experiment that is to be resumed is checked here, before anything is trained.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from fedsmu_ray.config.sampling import POWER_OF_CHOICE
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import CheckpointError, ConfigError
from fedsmu_ray.executors.versions import differences, versions
from fedsmu_ray.federation.cohort import drop_out
from fedsmu_ray.federation.evaluation import measured_over_clients
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.files.remote import Place
from fedsmu_ray.files.run_folders import RUN, Kind
from fedsmu_ray.tracking.metrics import value_of

log = logging.getLogger(__name__)

# Keys that may differ between a checkpoint and the run that resumes from it: the result does not
# depend on them. Whether the data is the same is seen from its contents, wherever it is found.
MAY_DIFFER = (
    "name",
    "data.root",
    "data.download",
    "federation.rounds",
    "federation.targets",
    "federation.client_timeout_s",
    "federation.client_retries",
    "compute.executor",
    "compute.actors",
    "compute.wait_s",
    "checkpoint.every",
    "checkpoint.folder",
)

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Round = Annotated[int, Field(strict=True, ge=1, lt=2**32)]
_Number = Annotated[float, Field(strict=True)]  # NaN or Inf, too: the loss of a model may be that
_Measured = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]
_Text = Annotated[str, Field(strict=True)]


@dataclass(frozen=True)
class SavedRecord:
    """A `Record` without its cohort, where that follows from the configuration."""

    round: _Round
    train_loss: _Number
    uplink_bytes: _Count
    downlink_bytes: _Count
    seconds: _Measured
    zero_fraction: _Measured
    dropped: _Count
    uniformity: _Number | None
    test_accuracy: _Share | None
    test_loss: _Number | None
    val_accuracy: _Share | None = None  # which earlier releases did not have
    val_loss: _Number | None = None
    retried: _Count = 0
    elapsed: _Measured = 0.0
    scores: dict[str, _Number] = field(default_factory=dict)
    cohort: tuple[_Count, ...] | None = None  # given where it depends on the model

    @staticmethod
    def of(record: Record, chosen: bool) -> SavedRecord:
        """The record as it is saved; chosen: whether its cohort depends on the model."""
        return SavedRecord(**asdict(record) | {"cohort": record.cohort if chosen else None})

    def record(self, problem: Problem) -> Record:
        """The record that was saved."""
        cohort = self.cohort or tuple(problem.cohort(self.round))
        return Record(**asdict(self) | {"cohort": cohort})


@dataclass(frozen=True)
class SavedProgress:
    """A `Progress` without the client states, which have files of their own."""

    round: _Round
    waiting: SavedRecord | None
    evaluated: list[SavedRecord]
    uplink_bytes: _Count
    downlink_bytes: _Count
    dropped: _Count
    retried: _Count = 0  # which earlier releases did not have
    seconds: _Measured = 0.0  # likewise

    @staticmethod
    def of(progress: Progress, chosen: bool) -> SavedProgress:
        """The progress as it is saved; chosen: whether cohorts depend on the model."""
        return SavedProgress(
            progress.round,
            SavedRecord.of(progress.waiting, chosen) if progress.waiting else None,
            [SavedRecord.of(record, chosen) for record in progress.evaluated],
            progress.uplink_bytes,
            progress.downlink_bytes,
            progress.dropped,
            progress.retried,
            progress.seconds,
        )

    def restore(self, progress: Progress, problem: Problem) -> None:
        """Set `progress`, except for the client states, to what was saved."""
        progress.round = self.round
        progress.waiting = self.waiting.record(problem) if self.waiting else None
        progress.evaluated = [saved.record(problem) for saved in self.evaluated]
        progress.uplink_bytes, progress.downlink_bytes = self.uplink_bytes, self.downlink_bytes
        progress.dropped, progress.retried = self.dropped, self.retried
        progress.seconds = self.seconds


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of its experiment."""

    config: dict[_Text, Any]  # `Config.flat`
    progress: SavedProgress
    data: _Text | None = None  # `Dataset.digest`; None in checkpoints of earlier releases
    versions: dict[_Text, _Text] | None = None  # likewise
    # Likewise; the digest of every buffer and frozen parameter of the model.
    constants: dict[_Text, _Text] | None = None

    @staticmethod
    def parse(plain: Mapping[str, Any]) -> Description:
        """The description that `plain` returned; raises pydantic's ValidationError."""
        return _DESCRIPTION.validate_python(plain)

    def plain(self) -> dict[str, Any]:
        """Plain data for a manifest."""
        return asdict(self)


_DESCRIPTION = TypeAdapter(Description)


@dataclass(frozen=True)
class Origin:
    """What does not change while an experiment runs, for the descriptions of its checkpoints."""

    config: dict[str, Any]
    data: str
    versions: dict[str, str]
    constants: dict[str, str]

    @staticmethod
    def of(problem: Problem) -> Origin:
        """The origin of a problem's experiment, as it is now."""
        return Origin(
            problem.config.flat(),
            problem.dataset.digest(),
            versions(),
            problem.probed.digests(),
        )

    def describe(self, progress: Progress) -> Description:
        """The description of a checkpoint."""
        chosen = self.config["federation.sampling"] == POWER_OF_CHOICE
        saved = SavedProgress.of(progress, chosen)
        return Description(self.config, saved, self.data, self.versions, self.constants)


@dataclass(frozen=True)
class Resumption:
    """A checkpoint of the run in `folder`, and the experiment that is to be resumed from it."""

    folder: Place
    saved: Description
    problem: Problem

    def check(self, states: frozenset[int]) -> None:
        """Raise ConfigError for another experiment, CheckpointError for what no run has written.

        states: the clients whose states are in the checkpoint.
        """
        self._check_config()
        self._check_data()
        self._check_constants()
        self._check_records()
        self._check_rounds()
        self._check_clients(states)

    def warn(self) -> None:
        """Log what is not known, or differs, of data and software; one line each."""
        if self.saved.data is None:
            log.warning(
                "%s: the checkpoint does not say what its data was (an earlier release wrote it); "
                "make sure that it is the same",
                self.folder,
            )
        if changed := differences(self.saved.versions or {}, versions()):
            log.warning(
                "%s: this run goes on with %s; its result may differ from that of an "
                "undisturbed run",
                self.folder,
                ", ".join(changed),
            )

    def _refuse(self, problem: str) -> ConfigError:
        return ConfigError([f"--resume {self.folder}: {problem}"])

    def _forged(self, field: str, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}: {field} of the checkpoint {problem}; restore the folder from a copy, "
            "or start a new run"
        )

    def _check_config(self) -> None:
        now, saved = _as_saved(self.problem.config), self.saved.config
        missing = now.keys() - saved.keys()  # keys that an earlier release did not have
        defaults = _defaults(self.problem.config) if missing else {}
        before = {key: saved.get(key, defaults.get(key)) for key in now | saved}
        changed = sorted(
            key for key in before if key not in MAY_DIFFER and now.get(key) != before[key]
        )
        if changed:
            raise self._refuse(
                f"its checkpoint belongs to another experiment (differs in {', '.join(changed)}); "
                "give the same configuration, or start a new run"
            )

    def _check_data(self) -> None:
        before, now = self.saved.data, self.problem.dataset.digest()
        if before is not None and before != now:
            since = "the checkpoint was written"
            raise data_changed(RUN, self.folder, self.problem.config, since, now, before)

    def _check_constants(self) -> None:
        before, now = self.saved.constants, self.problem.probed.digests()
        if before is None:
            return
        changed = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
        if changed:
            raise self._refuse(
                f"model.name = {self.problem.config.model_name}: its buffers or frozen parameters "
                f"{', '.join(changed[:3])} have changed since the checkpoint was written; restore "
                "what they are made from, or start a new run"
            )

    def _check_records(self) -> None:
        """Every round up to the checkpoint's that had to be evaluated was, and none after it."""
        progress, federation = self.saved.progress, self.problem.config.federation
        records = [*progress.evaluated, *([progress.waiting] if progress.waiting else [])]
        numbers = [record.round for record in records]
        if any(later <= earlier for earlier, later in zip(numbers, numbers[1:])):
            raise self._forged("progress.evaluated", "is not in the order of the rounds")
        for record in records if federation.chooses else ():
            chosen, sampled = record.cohort or (), self.problem.cohort(record.round)
            if len(chosen) != federation.cohort or not {*chosen} <= {*sampled}:
                raise self._forged("cohort", f"is not of the candidates of round {record.round}")
        if any(number > progress.round for number in numbers):
            raise self._forged("progress.evaluated", f"goes beyond its round {progress.round}")
        if progress.waiting and progress.waiting.round != progress.round:
            raise self._forged("progress.waiting", f"is not its round {progress.round}")
        every = federation.eval_every
        if sum(number % every == 0 for number in numbers) != progress.round // every:
            raise self._forged("progress.evaluated", f"lacks rounds up to {progress.round}")
        part = "val" if self.problem.held_out[0] else "test"
        needed = [f"{part}/loss", *(f"{part}/{name}" for name in self.problem.config.task.metrics)]
        if self.problem.dataset.targets != "values":
            needed.append(f"{part}/accuracy")
        needed += measured_over_clients(self.problem)
        if any(value_of(name, r) is None for r in progress.evaluated for name in needed):
            raise self._forged("progress.evaluated", "holds a round without its evaluation")
        if progress.dropped > progress.round * federation.cohort:
            raise self._forged("progress.dropped", "is more than all sampled clients")

    def _check_rounds(self) -> None:
        """The run has not done more rounds than it is to have, and can say how the last one was."""
        progress, federation = self.saved.progress, self.problem.config.federation
        done, wanted = progress.round, federation.rounds
        if wanted < done:
            raise self._refuse(
                f"federation.rounds = {wanted}: {done} rounds are done; give at least {done}, or "
                "start a new run"
            )
        before = self.saved.config.get("federation.rounds", wanted)
        local, server = self.problem.config.local.schedule, federation.server_schedule
        if wanted != before and (local.depends_on_rounds or server.depends_on_rounds):
            raise self._refuse(
                f"federation.rounds = {wanted}: the rates of its schedule are those of {before} "
                f"rounds; resume with federation.rounds={before}, or start a new run"
            )
        last = progress.waiting or (progress.evaluated[-1] if progress.evaluated else None)
        if wanted == done and (last is None or last.round != done):
            raise self._refuse(
                f"federation.rounds = {wanted}: {done} rounds are done, but the last one was not "
                f"evaluated (federation.eval_every = {federation.eval_every}); give at least "
                f"{done + 1}"
            )

    def _check_clients(self, states: frozenset[int]) -> None:
        """The clients with states are those that took part, up to as many as have failed."""
        problem, clients = self.problem, self.problem.config.data.clients
        unknown = sorted(client for client in states if client >= clients)
        if unknown:
            raise self._forged("shards", f"has a client {unknown[0]}, but data.clients = {clients}")
        if not problem.shard_clients:
            wanted, failed = set[int](), 0
        elif problem.has_feedback and problem.method.feedback_to == "all":
            wanted, failed = set(range(clients)), 0
        else:
            wanted, failed = self._participants()
        if extra := states - wanted:
            raise self._forged("shards", f"has a client {min(extra)}, which has no state")
        if len(lost := wanted - states) > failed:
            raise self._forged("shards", f"lacks client {min(lost)}")

    def _participants(self) -> tuple[set[int], int]:
        """The clients that were asked for an upload up to the checkpoint, and how many failed."""
        config, progress = self.problem.config, self.saved.progress
        asked: set[int] = set()
        total = 0
        for t in range(1, progress.round + 1):
            left = drop_out(config.seed, t, self.problem.cohort(t), config.federation.dropout)
            asked.update(left)
            total += len(left)
        if config.federation.chooses:  # some of the candidates, which their losses told
            return asked, len(asked)
        failed = total - (progress.round * config.federation.cohort - progress.dropped)
        if failed < 0:
            raise self._forged("progress.dropped", f"is less than the {-failed} that dropped out")
        return asked, failed


def data_changed(
    kind: Kind, folder: Place, config: Config, since: str, now: str, before: str
) -> ConfigError:
    """The refusal to resume what is in `folder` with other data; now, before: its digests."""
    return ConfigError(
        [
            f"--resume {folder}: data.dataset = {config.data.dataset}: its samples or labels have "
            f"changed since {since} (digest {now[:12]}, before {before[:12]}); restore the data, "
            f"or start a new {kind.what}"
        ]
    )


def _as_saved(config: Config) -> dict[str, Any]:
    """`Config.flat` as a manifest has it."""
    flat: dict[str, Any] = json.loads(json.dumps(config.flat()))
    return flat


def _defaults(config: Config) -> dict[str, Any]:
    """The flat configuration of the same method and model with all other keys at their defaults."""
    algorithm = {"name": config.method_name, "profile": config.profile}
    return _as_saved(parse({"algorithm": algorithm, "model": {"name": config.model_name}}))
