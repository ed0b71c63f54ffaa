"""The keys of `federation.stop`: when an experiment ends before its last round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsmu_ray.models.base import Positive


@dataclass(frozen=True)
class StopConfig:
    """The end of an experiment at an evaluated round: at a target, or without improvement.

    With both, whichever comes first.
    """

    metric: Annotated[
        str | None,
        Field(
            description="metric of evaluated rounds that decides; null: test/accuracy, or "
            "val/accuracy with data.validation"
        ),
    ] = None
    target: Annotated[
        float | None,
        Field(
            description="value of the metric at which the run ends; every evaluation is then made "
            "before the next round begins; null: none"
        ),
    ] = None
    patience: Annotated[
        Positive | None,
        Field(
            description="evaluations in a row without a better value after which the run ends; "
            "null: any number"
        ),
    ] = None
    min_rounds: Annotated[
        Positive, Field(description="rounds before which the run does not end")
    ] = 1

    @property
    def is_set(self) -> bool:
        """Whether an experiment may end before its last round."""
        return self.target is not None or self.patience is not None
