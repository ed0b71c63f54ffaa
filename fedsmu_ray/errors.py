"""The errors a user can understand and mend: their message is the whole story, and commands print nothing else."""

from __future__ import annotations

from collections.abc import Sequence

MOST, LONGEST = 20, 1000  # problems that a message lists, and the characters of each


class ExperimentError(Exception):
    """Base of the errors below."""


class ConfigError(ExperimentError, ValueError):
    """One or more things wrong with a configuration, or with what it points to; the message lists them all."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        listed = [p if len(p) <= LONGEST else f"{p[:LONGEST]}..." for p in self.problems[:MOST]]
        if len(self.problems) > MOST:
            listed.append(f"... and {len(self.problems) - MOST} more")
        count = "a problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(
            "\n".join([f"the configuration has {count}:", *(f"  - {p}" for p in listed)])
        )

    def __reduce__(self):  # the default would hand the joined message to __init__
        return ConfigError, (self.problems,)


class MessageError(ExperimentError, ValueError):
    """A message that is not what its sender should have sent; says what is wrong with it."""


class ClientError(ExperimentError, RuntimeError):
    """A client could not finish its round; names the client, the cause and what to try."""


class DivergenceError(ExperimentError, ArithmeticError):
    """The server's model is no longer finite."""


class ExecutionError(ExperimentError, RuntimeError):
    """The experiment could not be run on the resources there are; says what happened and what to try."""


class LostError(ExecutionError):
    """The server, or an object that the experiment needs, is gone with a process or node; the experiment can go back to its
    last checkpoint and repeat what came after it."""


class CheckpointError(ExperimentError, RuntimeError):
    """A checkpoint that is damaged or of another experiment; names the file and what is wrong with it."""
