"""The base class of all models.

It is all that the configuration section `model` and the rest of the program know of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Shape = tuple[int, ...]  # of one sample


@dataclass(frozen=True)
class Model(ABC):
    """A model with its options: its fields are keys of the configuration section `model`."""

    # Whether its inputs are tokens (int64) or numbers (float); None: both are possible.
    takes_tokens: ClassVar[bool | None] = False
    # Whether the module is the user's code, which is not known to draw nothing, to keep the samples
    # of a batch apart, and to be the same whenever it is built.
    is_users: ClassVar[bool] = False

    def load(self, name: str) -> None:
        """Import the code that `name` (`model.name`) refers to, so that it is part of the pickle.

        By default there is none to import. Raises ConfigError if it cannot be imported.
        """
        return

    @abstractmethod
    def build(self, name: str, shape: Shape, classes: int, symbols: int | None) -> nn.Module:
        """A module for samples of `shape` that returns logits [batch, classes].

        name: `model.name` as written. symbols: number of different tokens, for data of tokens.
        What is drawn comes from the process-wide generators, which `registry.build` seeds. Raises
        ConfigError for data that the model cannot take.
        """
