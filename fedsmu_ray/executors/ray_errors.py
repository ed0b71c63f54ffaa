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

from fedsmu_ray.errors import BrokenGPUError, LostError
from fedsmu_ray.numerics import gpu

# Exceptions that report the loss of a process, alone or with its node.
PROCESS_LOST = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError)

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


def raising_line(error: RayTaskError) -> str:
    """The line that raised in another process, as file:line."""
    frames = re.findall(r'File "(.+?)", line (\d+)', str(error))
    return ":".join(frames[-1]) if frames else ""
