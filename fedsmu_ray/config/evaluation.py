"""The section `evaluation`: the model on each client's own held-out samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.models.base import Positive
from fedsmu_ray.tracking.metrics import client_metric_names


@dataclass(frozen=True)
class PersonaliseConfig:
    """The same for the models that clients make of it by training on their own samples."""

    epochs: Annotated[
        Positive | None,
        Field(
            description="passes over a client's training samples by which the model is fine-tuned "
            "for it before it is evaluated once more, by SGD with the learning rate and batch size "
            "of `local` but without momentum; null: not"
        ),
    ] = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on samples of the clients, which they do not train on."""

    clients: Annotated[
        Literal["none", "all"] | Positive,
        Field(
            description="clients on whose held-out samples the model is evaluated whenever it is "
            "on the test set: none, all, or so many, drawn anew from the seed each time"
        ),
    ] = "none"
    share: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of each client's samples that it holds out, drawn from the seed: "
            "at least one and not all; a client with a single sample has none, and is left out",
        ),
    ] = 0.2
    personalise: PersonaliseConfig = field(default_factory=PersonaliseConfig)

    @property
    def held_out(self) -> float:
        """The share of each client's samples that is held out; 0 if no client is evaluated."""
        return 0.0 if self.clients == "none" else self.share

    def metrics(self, has_accuracy: bool | None) -> list[str]:
        """The metrics that are measured; has_accuracy: whether accuracy is, None: perhaps."""
        if self.clients == "none":
            return []
        return client_metric_names(has_accuracy, self.personalise.epochs is not None)

    def check_clients(self, able: int) -> None:
        """Raise ConfigError if fewer clients are able to hold out a sample than are wanted."""
        wanted = 1 if isinstance(self.clients, str) else self.clients
        if self.clients != "none" and able < wanted:
            raise ConfigError(
                [
                    f"evaluation.clients = {self.clients}: {able} clients have two samples or "
                    "more, and one of them to hold out; lower it, or change data.partition or "
                    "data.clients"
                ]
            )


def check_evaluation(evaluation: EvaluationConfig, clients: int) -> Iterator[str]:
    """A problem for each key that has nothing to act on; clients: of the federation."""
    wanted = evaluation.clients
    if isinstance(wanted, int) and wanted > clients:
        yield (
            f"evaluation.clients = {wanted}: only data.clients = {clients} clients exist; lower "
            "it, or write all"
        )
    if wanted != "none":
        return
    given = {"share": evaluation.share, "personalise.epochs": evaluation.personalise.epochs}
    defaults = {"share": EvaluationConfig.share, "personalise.epochs": None}
    for key, value in given.items():
        if value != defaults[key]:
            yield (
                f"evaluation.{key} = {value}: evaluation.clients = none evaluates no client; set "
                "evaluation.clients=all, or remove it"
            )
