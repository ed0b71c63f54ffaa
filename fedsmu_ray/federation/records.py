"""Records of rounds, and the progress of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from fedsmu_ray.federation.states import ClientStates
from fedsmu_ray.federation.tasks import ClientScore
from fedsmu_ray.tracking.metrics import direction_of, rank, value_of


@dataclass(frozen=True)
class Record:
    """One finished round. `tracking.metrics` says which fields are tracked, and their units."""

    round: int  # from 1
    cohort: tuple[int, ...]
    train_loss: float  # mean over the participants of their mean local training loss
    uplink_bytes: int  # cumulative, of all clients
    downlink_bytes: int  # cumulative, of all clients
    seconds: float  # wall time of this round
    zero_fraction: float  # of the uploaded signs, the share that stands for exact zeros
    dropped: int = 0  # cumulative: sampled clients without a usable upload
    # Cumulative: clients that were trained again after a failure. It says nothing of the result.
    retried: int = field(default=0, compare=False)
    # Cumulative: wall time of the rounds; as `seconds`, of no exact meaning.
    elapsed: float = field(default=0.0, compare=False)
    uniformity: float | None = None  # magnitude uniformity; None in rounds that are not evaluated
    # 0 to 1 (None for a task without classes), and the loss, likewise; with validation samples,
    # `test` only after training.
    val_accuracy: float | None = None
    val_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    # Further metrics of the task, by their names in the tracker, such as `test/f1_macro`.
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """On the validation samples, if there are some, else on the test set; None if neither."""
        return self.test_accuracy if self.val_accuracy is None else self.val_accuracy

    @property
    def loss(self) -> float | None:
        """The loss, likewise."""
        return self.test_loss if self.val_loss is None else self.val_loss

    @property
    def is_evaluated(self) -> bool:
        """Whether the model was evaluated after this round."""
        return self.loss is not None


@dataclass
class Progress:
    """Where an experiment stands between two rounds.

    With the server state, this is all that a checkpoint holds.
    """

    round: int = 0  # completed rounds
    states: ClientStates = field(default_factory=ClientStates)
    waiting: Record | None = None  # the last round, while its evaluation is still to be done
    evaluated: list[Record] = field(default_factory=list)  # the evaluated rounds so far
    # Of the last one, by client, if it was evaluated in this process: no checkpoint has them.
    clients: list[ClientScore] = field(default_factory=list)
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    dropped: int = 0
    retried: int = 0
    seconds: float = 0.0  # wall time of the rounds

    @property
    def last(self) -> Record:
        """The last evaluated round."""
        return self.evaluated[-1]

    def best(self, metric: str) -> Record:
        """The first evaluated round with the best value of a metric."""
        direction = direction_of(metric)
        return min(self.evaluated, key=lambda record: rank(value_of(metric, record), direction))

    def reset(self) -> None:
        """Go back to the state before round 1."""
        fresh = Progress()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
