"""The keys of a configuration: a frozen dataclass for each section, whose fields are its keys.

Two sections have keys of their own kind: `algorithm` holds the options of the method, `model` those
of the model. Their keys are the fields of the method's and the model's class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field as DataclassField
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field

from fedsmu_ray import environment, plugins
from fedsmu_ray.algorithms.base import Method, Weighting
from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.config.evaluation import EvaluationConfig
from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.config.numbers import PositiveNumber, Seed, Share
from fedsmu_ray.config.paths import DataPath, DatasetName, FolderPath
from fedsmu_ray.config.plain_data import deep_copy, flatten_keys
from fedsmu_ray.config.sampling import POWER_OF_CHOICE, SAMPLING, SAMPLINGS
from fedsmu_ray.config.schedule import ScheduleConfig
from fedsmu_ray.config.stopping import StopConfig
from fedsmu_ray.config.task import TaskConfig
from fedsmu_ray.config.tracking import TrackingConfig
from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.config.yaml_files import dump_yaml
from fedsmu_ray.datasets.partition import PartitionConfig
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.files import secrets
from fedsmu_ray.models.base import Model, Positive
from fedsmu_ray.tracking.base import absolute_uri

PROFILES: dict[str, dict[str, Any]] = {
    # What the code released by FedSMU's authors adds to the text of the paper: a decaying server
    # step, and weight decay and gradient clipping in local training. `paper` is the text.
    "authors": {"algorithm.decay": 0.9988, "local.weight_decay": 0.001, "local.clip_norm": 10.0},
    "paper": {"algorithm.decay": 1.0, "local.weight_decay": 0.0, "local.clip_norm": None},
}


@dataclass(frozen=True)
class DataConfig:
    """The data and how it is split."""

    dataset: Annotated[DatasetName, Field(description="name of the data set")] = "digits"
    root: Annotated[
        DataPath | None,
        Field(
            description="folder of the data (npz: the file); null: $FEDSMU_DATA, else "
            "~/.cache/fedsmu_ray"
        ),
    ] = None
    download: Annotated[bool, Field(description="download the data set if it is missing")] = False
    clients: Annotated[Positive, Field(description="clients of the federation")] = 100
    validation: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="share of the training samples that no client has, on which models are "
            "evaluated; the test set is then used for final models only",
        ),
    ] = 0.0
    augment: Annotated[bool, Field(description="flip and crop training images at random")] = False
    options: Annotated[Mapping[str, Any], Field(description="options of the data set")] = field(
        default_factory=dict
    )
    partition: PartitionConfig = field(default_factory=PartitionConfig)

    def folder(self) -> Path:
        """The folder (npz: the file) of the data."""
        return Path(self.root) if self.root else environment.data_root()


@dataclass(frozen=True)
class FederationConfig:
    """Rounds, cohorts, and what happens when clients fail."""

    rounds: Annotated[Positive, Field(description="rounds of the experiment")] = 100
    cohort: Annotated[Positive, Field(description="clients sampled for a round")] = 10
    sampling: Annotated[
        str,
        Field(
            description="how they are sampled from the seed: "
            + "; ".join(f"{name}: {meaning}" for name, meaning in SAMPLINGS.items())
        ),
    ] = "uniform"
    candidates: Annotated[
        Positive | None,
        Field(
            description="clients that are asked for their loss (power_of_choice); null: twice the "
            "cohort, as far as there are so many"
        ),
    ] = None
    weighting: Annotated[
        Weighting,
        Field(
            description="weight of a participant in the mean of a round's uploads: the same for "
            "all, or its number of training samples"
        ),
    ] = "uniform"
    eval_every: Annotated[
        Positive,
        Field(
            description="rounds between evaluations of the model; the last round is always "
            "evaluated"
        ),
    ] = 1
    dropout: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="probability that a sampled client does not take part, drawn from the seed",
        ),
    ] = 0.0
    client_timeout_s: Annotated[
        PositiveNumber | None,
        Field(description="time limit in seconds for one client's task; null: none"),
    ] = None
    client_retries: Annotated[
        int,
        Field(
            ge=0, description="retries of a client that raises, hangs or sends an invalid message"
        ),
    ] = 1
    on_client_failure: Annotated[
        Literal["fail", "drop"],
        Field(
            description="after the retries: end the run, or continue the round without the client"
        ),
    ] = "fail"
    min_cohort: Annotated[
        Positive, Field(description="fewest participants of a round; with fewer the run ends")
    ] = 1
    targets: Annotated[
        tuple[Share, ...],
        Field(
            description="accuracies (0 to 1) for which rounds, bytes and seconds are told, and may "
            "be metrics of a sweep, as in target/0.8/uplink_bytes; empty: a sweep tells those to "
            "an accuracy that every method reaches"
        ),
    ] = ()
    stop: StopConfig = field(default_factory=StopConfig)
    server_schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    @property
    def chooses(self) -> bool:
        """Whether the cohort depends on the model."""
        return self.sampling == POWER_OF_CHOICE

    def sampled(self, clients: int) -> int:
        """How many clients are drawn for a round; clients: of the federation."""
        if not self.chooses:
            return self.cohort
        return min(2 * self.cohort, clients) if self.candidates is None else self.candidates

    def load(self) -> None:
        """Import the user's sampling, so that it is part of the pickle; raises ConfigError."""
        _ = self.imported_sampling

    @property
    def imported_sampling(self) -> Callable[..., Any] | None:
        """The user's function, if `sampling` names one; raises ConfigError."""
        if not self.sampling.startswith("import:"):
            return None
        return plugins.kept(self, lambda: plugins.load(SAMPLING, self.sampling))


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of an experiment."""

    every: Annotated[
        Positive | None, Field(description="rounds between checkpoints; null: no checkpoints")
    ] = None
    folder: Annotated[
        FolderPath,
        Field(
            description="path or URI for runs of `train`; the trials of a sweep are in tune.storage"
        ),
    ] = "fedsmu_runs"


@dataclass(frozen=True, repr=False)
class Config:
    """One experiment, and the sweep around it. Build it with `load_config`."""

    algorithm: Method
    method_name: str  # `algorithm.name` as written
    profile: str  # `algorithm.profile`
    model: Model
    model_name: str  # `model.name` as written
    name: Annotated[
        str, Field(description="name of the experiment; folders are named after it")
    ] = "experiment"
    seed: Annotated[
        Seed,
        Field(
            description="decides the split, the initial model, cohorts, batches and all other "
            "draws",
        ),
    ] = 0
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    # The nested mapping that was parsed, without the defaults.
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def judged(self) -> str:
        """The metric that is shown of a model: its accuracy, or the loss of a task without one."""
        return self.task.judged(self.data.validation)

    def to_dict(self) -> dict[str, Any]:
        """The nested mapping, with all defaults, that `parse` turns into this configuration."""
        sections = {name: asdict(getattr(self, name)) for name in SECTIONS}
        method = {"name": self.method_name, "profile": self.profile, **asdict(self.algorithm)}
        plain: dict[str, Any] = deep_copy(
            {
                "name": self.name,
                "seed": self.seed,
                "data": sections.pop("data"),
                "model": {"name": self.model_name, **asdict(self.model)},
                **sections,
                "algorithm": method,
            }
        )
        return plain

    def to_yaml(self) -> str:
        """`to_dict` as YAML, without secrets."""
        return dump_yaml(secrets.cut(self.to_dict()))

    def __repr__(self) -> str:
        return f"Config({secrets.cut(self.to_dict())})"

    def anywhere(self) -> Config:
        """The same configuration with the same tracking store in every working folder."""
        uri = self.tracking.uri
        tracking = replace(self.tracking, uri=absolute_uri(uri) if uri else uri)
        return replace(self, tracking=tracking)

    def without_store_password(self) -> Config:
        """The same configuration without the password of the tracking store."""
        uri = secrets.cut(self.tracking.uri)
        given = secrets.cut(self.source.get("tracking")) or {}
        # Whoever parses it again does not take the URI from the environment either.
        source = {**self.source, "tracking": {**given, "uri": uri}}
        return replace(self, tracking=replace(self.tracking, uri=uri), source=source)

    def check_secrets(self) -> None:
        """Raise ConfigError for a secret that was cut out when the configuration was written.

        That of `tracking.uri` is left to whoever opens the store, since only that needs it.
        """
        plain = {name: value for name, value in self.to_dict().items() if name != "tracking"}
        if cut := secrets.find_cut(plain):
            raise ConfigError(
                [
                    f"{key}: its value, a secret, was left out when the configuration was written; "
                    f"give it again: {key}=..."
                    for key in cut
                ]
            )

    def flat(self) -> dict[str, Any]:
        """The settings that identify a run, by dotted key and without secrets.

        They are all but those of `tune` and `tracking`.
        """
        flat = flatten_keys(secrets.cut(self.to_dict()))
        return {k: v for k, v in flat.items() if k.split(".")[0] not in ("tune", "tracking")}


def subsection(f: DataclassField[Any]) -> type | None:
    """The class of a field that is itself a section; None for a key."""
    factory: Any = f.default_factory
    return factory if isinstance(factory, type) and is_dataclass(factory) else None


# The sections whose keys do not depend on a name, as those of `algorithm` and `model` do.
SECTIONS = {f.name: cls for f in fields(Config) if (cls := subsection(f))}


def declared_keys(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and annotated type of every key of a section's class and its subsections."""
    hints = get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        if inner := subsection(f):
            yield from declared_keys(inner, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", hints[f.name]
