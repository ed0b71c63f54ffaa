"""What Ray's exceptions mean for an experiment."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from fedsmu_ray.errors import (
    BrokenGPUError,
    ConfigError,
    ExecutionError,
    ExperimentError,
    LostError,
)
from fedsmu_ray.numerics import gpu

# Exceptions that report the loss of a process, alone or with its node.
PROCESS_LOST = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError)

MAX_LENGTH = 500  # characters of an exception in a message

F = TypeVar("F", bound=Callable[..., Any])


def reporting_broken_gpu(call: F) -> F:
    """Have a call to a client actor raise BrokenGPUError for an error that CUDA will repeat.

    The actor is then replaced like one that is lost.
    """

    @wraps(call)
    def reporting(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if not gpu.is_broken(error):
                raise
            raise BrokenGPUError(str(error)) from None  # the error itself may not be picklable

    return cast(F, reporting)


def get(refs: list[Any]) -> list[Any]:
    """Results of calls to the server, or objects.

    Raises what the server raised, and LostError for a server or an object that is lost.
    """
    try:
        results: list[Any] = ray.get(refs)
        return results
    except RayTaskError as error:
        if isinstance(error.cause, (*PROCESS_LOST, ObjectLostError)):
            cause = first_sentence(error.cause)
            raise LostError(f"an object that the server needs is lost ({cause})") from None
        raise error.cause from None
    except ObjectLostError as error:
        raise LostError(f"an object is lost ({first_sentence(error)})") from None
    except PROCESS_LOST as error:
        raise LostError(f"the server actor was lost ({first_sentence(error)})") from None


def first_sentence(error: BaseException) -> str:
    """The kind of an exception and its first sentence; Ray's messages are colored paragraphs."""
    plain = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
    return re.split(r"\.\s|\n", f"{type(error).__name__}: {plain}", maxsplit=1)[0][:200]


def place_of(error: RayTaskError) -> str:
    """The node and process in which a call has raised, for a message."""
    return place_in(str(error)) or "another process"


def place_in(text: str) -> str:
    """The node and process that Ray names in a text about an exception; "" if it names none."""
    found = re.search(r"pid=(\d+), ip=([\w.:]+)", text)
    if not found:
        return ""
    hosts = {node["NodeManagerAddress"]: node["NodeManagerHostname"] for node in ray.nodes()}
    return f"{hosts.get(found[2], found[2])}, process {found[1]}"


def raised_there(what: str, error: RayTaskError) -> ExperimentError:
    """What another process has raised while it did `what`, with its node and number."""
    cause: BaseException = error.cause
    if isinstance(cause, ConfigError):
        return ConfigError(
            [f"{problem} ({what} on {place_of(error)})" for problem in cause.problems]
        )
    if isinstance(cause, ExperimentError):
        return ExecutionError(f"{what} on {place_of(error)}: {cause}")
    text, where = " ".join(str(cause).split())[:MAX_LENGTH], raising_line(error)
    line = f" ({where})" if where else ""
    return ExecutionError(f"{what} on {place_of(error)}: {type(cause).__name__}: {text}{line}")


def creation_error(error: BaseException) -> str | None:
    """The last line of the exception for which an actor could not be made.

    None if the actor was made, and was lost later.
    """
    if not getattr(error, "actor_init_failed", False):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:MAX_LENGTH]


def raising_line(error: RayTaskError) -> str:
    """The line that raised in another process, as file:line."""
    frames = re.findall(r'File "(.+?)", line (\d+)', str(error))
    return ":".join(frames[-1]) if frames else ""
