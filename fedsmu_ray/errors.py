"""Errors that a user can fix.

Their messages say what is wrong, where, and what to try. Commands print them without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PROBLEMS = 20  # listed in one message
MAX_PROBLEM_LENGTH = 1000  # characters of each


class ExperimentError(Exception):
    """Base class of the errors below."""


class ConfigError(ExperimentError, ValueError):
    """Problems in a configuration or in what it refers to; the message lists all of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        listed = [
            problem if len(problem) <= MAX_PROBLEM_LENGTH else f"{problem[:MAX_PROBLEM_LENGTH]}..."
            for problem in self.problems[:MAX_PROBLEMS]
        ]
        if len(self.problems) > MAX_PROBLEMS:
            listed.append(f"... and {len(self.problems) - MAX_PROBLEMS} more")
        count = "a problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(
            "\n".join([f"the configuration has {count}:", *(f"  - {line}" for line in listed)])
        )

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        # The default would call __init__ with the joined message.
        return ConfigError, (self.problems,)


class Problems(list[str]):
    """Problems that one ConfigError is to list, and the first error that was behind any of them."""

    cause: ConfigError | None = None

    def take(self, error: ConfigError) -> None:
        """Add the problems of an error."""
        self += error.problems
        self.cause = self.cause or error


class MessageError(ExperimentError, ValueError):
    """A message that does not follow the wire format; says what is wrong with it."""


class ClientError(ExperimentError, RuntimeError):
    """A client failed to finish its round; names the client, the cause and what to try."""


class LocalDivergenceError(ClientError):
    """The model, upload or state of a client has values that are not finite after its training."""


class MethodError(ExperimentError, RuntimeError):
    """A federated method breaks its contract; names the class, the hook and the problem."""


class DivergenceError(ExperimentError, ArithmeticError):
    """A state or message of the server is no longer finite; names the round and the field."""


class ExecutionError(ExperimentError, RuntimeError):
    """The available resources cannot run the experiment; says what happened and what to try."""


class BrokenGPUError(ExecutionError):
    """A process can no longer use its GPU: CUDA repeats an error in every later call."""


class LostError(ExecutionError):
    """The server, or an object that the experiment needs, was lost with its process or node.

    The experiment can restart from its last checkpoint and repeat the rounds after it.
    """


class CheckpointError(ExperimentError, RuntimeError):
    """A checkpoint is damaged or belongs to another experiment; names the file and the problem."""


class ModelFileError(ExperimentError, ValueError):
    """A file that is no model of this package, or is damaged; names the file and the problem."""


class LockedError(ExperimentError, RuntimeError):
    """What is to be written is in use by another process; names the process and its host."""


class TakenOverError(LockedError):
    """Another process goes on with the run of this one, which was believed dead."""
