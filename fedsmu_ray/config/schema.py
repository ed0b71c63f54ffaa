"""The sections of a configuration: a frozen dataclass each, whose fields are the keys, with their types and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

Positive = Annotated[int, Field(ge=1, lt=2**31)]
NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class PartitionConfig:
    """How training samples are dealt to clients. PerClient kind reads its own keys."""

    kind: Literal["dirichlet", "iid", "shards", "natural", "quantity_skew"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0)] = (
        0.25  # Dirichlet concentration (dirichlet, quantity_skew); smaller is more skewed
    )
    sigma: NonNegative = 0.0  # spread of log-normal client sizes (dirichlet); 0: equal sizes
    shards: Positive = 2  # label-sorted shards of each client (shards)


DATASETS = (
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "tiny_imagenet",
    "image_folder",
    "shakespeare",
    "leaf",
    "npz",
    "synthetic",
)
DATASET_FORMS = ("hf:<name or path>", "import:<package.module>:<function>")


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "digits"  # one of DATASETS or DATASET_FORMS
    root: str | None = (
        None  # folder (npz: file) of the data; default: $FEDSMU_DATA, else a folder in the user's cache
    )
    download: bool = False  # whether a missing data set may be downloaded
    clients: Positive = 100
    augment: bool = False  # random flips and shifted crops of training images
    options: Mapping[str, Any] = field(
        default_factory=dict
    )  # arguments of synthetic, leaf, hf:... and import:... data sets
    partition: PartitionConfig = field(default_factory=PartitionConfig)

    def folder(self) -> Path:
        """Where the data is looked for."""
        root = self.root or os.environ.get("FEDSMU_DATA") or "~/.cache/fedsmu_ray"
        return Path(root).expanduser()


# The options of every model, with their defaults. An option of another model is an error, not a dead letter.
MODELS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": (200, 200)},
    "lenet": {"filters": 64},
    "resnet18_gn": {"stem": "imagenet", "groups": 2},
    "vit_s": {"patch": 4, "image_size": None},
    "char_lstm": {},
    "torchvision:<name>": {"groups": 2, "image_size": None, "options": None},
    "import:<package.module>:<function>": {"options": None},
}


@dataclass(frozen=True)
class ModelConfig:
    """A model and its options; an option left out has the default of MODELS."""

    name: str = "mlp"  # one of MODELS
    hidden: tuple[Positive, ...] | None = None  # mlp: widths of the hidden layers
    filters: Positive | None = None  # lenet: filters of both convolutions
    stem: Literal["imagenet", "cifar"] | None = (
        None  # resnet18_gn: 7x7 stride 2 and max-pool, or 3x3
    )
    groups: Positive | None = (
        None  # resnet18_gn, torchvision: groups of the GroupNorm in place of batch norm
    )
    patch: Positive | None = None  # vit_s: side of a patch, pixels
    image_size: Positive | None = (
        None  # vit_s, torchvision: side that images are resized to; null: as they are
    )
    options: Mapping[str, Any] | None = (
        None  # torchvision, import: arguments of the model's function
    )

    def __post_init__(self) -> None:
        for key, default in self.known().items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, default)

    def known(self) -> Mapping[str, Any]:
        """The options of this model with their defaults; empty for a model there is not."""
        form = f"{self.name.split(':')[0]}:"
        return MODELS.get(self.name) or next(
            (o for n, o in MODELS.items() if ":" in self.name and n.startswith(form)), {}
        )

    def unused(self) -> list[str]:
        """Options that are set and that this model does not read."""
        return [
            f.name
            for f in fields(self)
            if f.name not in ("name", *self.known()) and getattr(self, f.name) is not None
        ]


@dataclass(frozen=True)
class LocalConfig:
    """Local SGD of a client in one round."""

    epochs: Positive = 5
    batch_size: Positive = 50
    lr: NonNegative = 0.1
    weight_decay: NonNegative = 0.0  # default set by algorithm.profile
    clip_norm: Annotated[float, Field(gt=0)] | None = (
        None  # global gradient norm; default set by algorithm.profile
    )


@dataclass(frozen=True)
class FederationConfig:
    rounds: Positive = 100
    cohort: Positive = 10  # clients per round
    eval_every: Positive = (
        1  # rounds between evaluations on the test set; the last round is always evaluated
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # chance that a sampled client does not answer, drawn from the seed
    )
    client_timeout_s: Annotated[float, Field(gt=0)] | None = (
        None  # for one client's task; null waits for ever
    )
    client_retries: Annotated[int, Field(ge=0)] = (
        1  # of a client that raises, hangs, or sends what cannot be used
    )
    on_client_failure: Literal["fail", "drop"] = (
        "fail"  # then: end the run, or go on without it in this round
    )
    min_cohort: Positive = 1  # fewer answers in a round end the run


@dataclass(frozen=True)
class ComputeConfig:
    executor: Literal["inline", "ray"] = "ray"
    actors: Positive | None = (
        None  # client actors; default: as many as fit the cluster (train), 1 per trial (tune)
    )
    cpus_per_actor: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_actor: NonNegative = 0.0  # fraction of a GPU, or whole GPUs; 0 trains on the CPU
    clients_per_task: Positive | None = (
        None  # clients of one client task; default chosen from model and device
    )
    precision: Literal["float32", "tf32", "bfloat16"] = (
        "float32"  # of matrix products and convolutions in local training
    )


@dataclass(frozen=True)
class CheckpointConfig:
    every: Positive | None = None  # rounds between checkpoints; null writes none
    folder: str = (
        "fedsmu_runs"  # where `train` makes a run's folder; a sweep's trials use the sweep's
    )


@dataclass(frozen=True)
class TrackingConfig:
    uri: str | None = "sqlite:///mlflow.db"  # null turns tracking off
    experiment: str = "fedsmu"


@dataclass(frozen=True)
class TuneConfig:
    """A sweep: every combination of the grids, `samples` times, plus the baselines."""

    metric: Literal["test/accuracy", "test/loss", "train/loss"] = "test/accuracy"
    mode: Literal["max", "min"] = "max"
    samples: Positive = (
        1  # draws of choice / uniform / loguniform per grid point; trials in all for optuna
    )
    search: Literal["grid", "random", "optuna"] = "grid"
    scheduler: Literal["none", "asha"] = "none"
    concurrent: Positive | None = None  # trials at once; default: as many as the resources allow
    storage: str = (
        "fedsmu_runs"  # folder of the sweep's state, for --resume; shared by all nodes of a cluster
    )
    # dotted key -> {grid|choice: [...]} or {uniform|loguniform: [low, high]}
    space: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[Mapping[str, Any], ...] = ()  # further trials, each a mapping of dotted keys


PROFILES: dict[str, dict[str, Any]] = {
    # What the FedSMU authors' released code does beside the paper's text: a decayed server step, weight decay and
    # gradient clipping in the local solver. `paper` is the text as it stands.
    "authors": {"algorithm.decay": 0.9988, "local.weight_decay": 0.001, "local.clip_norm": 10.0},
    "paper": {"algorithm.decay": 1.0, "local.weight_decay": 0.0, "local.clip_norm": None},
}
