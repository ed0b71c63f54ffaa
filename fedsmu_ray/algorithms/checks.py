"""Checks of what a method declares and returns: fields, states, options of its feedback."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from fedsmu_ray.algorithms.base import Method, Setting
from fedsmu_ray.errors import ConfigError, ExperimentError, LocalDivergenceError, MethodError
from fedsmu_ray.numerics.parameters import is_finite
from fedsmu_ray.wire.base import Codec

MAX_NAME_LENGTH = 5  # of a field's name, in ASCII characters
DIM = 7  # parameters of the vector that the states are tried on


def check_method(name: str, method: Method, setting: Setting) -> None:
    """Ask the method for problems, call the hooks that declare fields and initial states.

    name: `algorithm.name`, for the message. Raises ConfigError with the method's problems, or for
    the first mistake in what the hooks return; it names the class, the hook and the cure, and for
    an exception in a hook also the file and line.
    """
    checks = _Checks(name, method)
    if problems := list(checks.call("problems", setting)):
        raise ConfigError(problems)
    if not checks.fields("uplink", setting):
        raise checks.error("uplink", "has no fields", "return at least one field with its codec")
    downlink = checks.fields("downlink", setting)
    feedback = checks.feedback(setting)
    checks.server_state(set(downlink), feedback)
    checks.client_state()


@dataclass(frozen=True)
class _Checks:
    name: str
    method: Method

    def error(self, hook: str, problem: str, cure: str) -> ConfigError:
        label = f"algorithm.name = {self.name}: {type(self.method).__name__}.{hook}"
        return ConfigError([f"{label} {problem}; {cure}"])

    def call(self, hook: str, argument: Any, cure: str = "correct the code there") -> Any:
        try:
            return getattr(self.method, hook)(argument)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error} ({self._line(error)})"
            raise self.error(hook, problem, cure) from error

    def _line(self, error: Exception) -> str:
        """File and line of the innermost frame in code of the method's classes."""
        functions = [f for cls in type(self.method).__mro__ for f in vars(cls).values()]
        files = {f.__code__.co_filename for f in functions if isinstance(f, FunctionType)}
        frames = traceback.extract_tb(error.__traceback__)
        frame = next((frame for frame in reversed(frames) if frame.filename in files), frames[-1])
        return f"{frame.filename}:{frame.lineno}"

    def fields(self, hook: str, setting: Setting) -> Mapping[str, Codec]:
        found = self.call(hook, setting)
        if not isinstance(found, Mapping):
            raise self.error(
                hook, f"returned a {type(found).__name__}", "return a dict of codecs by field name"
            )
        for key, codec in found.items():
            if not isinstance(key, str) or not key.isascii() or not 0 < len(key) <= MAX_NAME_LENGTH:
                raise self.error(
                    hook,
                    f"names a field {key!r}",
                    f"use 1 to {MAX_NAME_LENGTH} ASCII characters",
                )
            if isinstance(codec, type) or not _is_codec(codec):
                raise self.error(
                    hook,
                    f"gives the field {key!r} the codec {codec!r}",
                    "use an instance of a codec such as Float32() (fedsmu_ray.wire)",
                )
        return found

    def feedback(self, setting: Setting) -> set[str]:
        """Names of the feedback's fields, for any number of participants."""
        names = set()
        for participants in {1, setting.cohort}:
            names |= set(self.fields("feedback", replace(setting, cohort=participants)))
        if not names:
            return names
        if type(self.method).apply_feedback is Method.apply_feedback:
            raise self.error(
                "apply_feedback", "is not defined, but there is feedback", "define what it does"
            )
        if self.method.feedback_to not in ("participants", "all"):
            raise self.error(
                "feedback_to",
                f"is {self.method.feedback_to!r}",
                "return 'participants' or 'all'",
            )
        return names

    def server_state(self, downlink: set[str], feedback: set[str]) -> None:
        x = torch.zeros(DIM)
        state = self.tensors("server_init", x)
        sent = self.tensors("broadcast", state) if downlink else {}
        for hook, held, needed in (
            ("server_init", state, {"x"} | feedback),
            ("broadcast", sent, downlink),
        ):
            for key in sorted(needed):
                if key not in held:
                    raise self.error(
                        hook, f"returned no {key!r}", f"return it with shape {[*x.shape]}"
                    )
                self.shape(hook, key, held[key], x)

    def client_state(self) -> None:
        # An experiment finds the size of client states with a tensor without data ("meta").
        meta_cure = (
            "use the shape of x only: it is also called with a meta tensor, which has no values"
        )
        for device, *cure in (("cpu",), ("meta", meta_cure)):
            x = torch.zeros(DIM, device=device)
            for key, value in self.tensors("client_init", x, *cure).items():
                self.shape("client_init", key, value, x)

    def tensors(self, hook: str, argument: Any, *cure: str) -> Mapping[str, Tensor]:
        found = self.call(hook, argument, *cure)
        if not isinstance(found, Mapping):
            raise self.error(
                hook, f"returned a {type(found).__name__}", "return a dict of tensors by name"
            )
        for key, value in found.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise self.error(
                    hook,
                    f"returned {type(value).__name__} as {key!r}",
                    "return torch tensors by name",
                )
        return found

    def shape(self, hook: str, key: str, value: Tensor, x: Tensor) -> None:
        if value.shape != x.shape:
            raise self.error(
                hook,
                f"returned {key!r} with shape {[*value.shape]} for x with shape {[*x.shape]}",
                "give it the shape of x, for example with torch.zeros_like(x)",
            )


def call_hook(method: Method, hook: str, *arguments: Any) -> Any:
    """Call a hook of a method during an experiment.

    Raises MethodError, with file and line, for an exception that is not an ExperimentError.
    """
    try:
        return getattr(method, hook)(*arguments)
    except ExperimentError:
        raise
    except Exception as error:
        line = _Checks("", method)._line(error)
        label = f"{type(method).__name__}.{hook}"
        raise MethodError(f"{label} raised {type(error).__name__}: {error} ({line})") from error


def check_names(method: Method, hook: str, found: Mapping[str, Tensor], wanted: set[str]) -> None:
    """Raise MethodError unless a hook returned tensors with exactly these names."""
    if set(found) != wanted:
        label = f"{type(method).__name__}.{hook}"
        have, want = (", ".join(sorted(names)) or "nothing" for names in (found, wanted))
        raise MethodError(f"{label} returned {have}; it has to return {want}")


def not_finite(values: Mapping[str, Tensor]) -> str | None:
    """The name of the first of these tensors that holds NaN or Inf; None if there is none."""
    return next((name for name, value in values.items() if not is_finite(value)), None)


def check_clients_finite(
    what: str, values: Mapping[str, Tensor], round: int, clients: Sequence[int]
) -> None:
    """Raise ClientError for a client whose row of a tensor [C, P] holds NaN or Inf.

    what: the tensors in the message, such as "upload".
    """
    name = not_finite(values)
    if name is None:
        return
    client = next(c for c, row in zip(clients, values[name]) if not is_finite(row))
    raise LocalDivergenceError(
        f"round {round}, client {client}: local training diverged (its {what} '{name}' holds NaN "
        "or Inf); lower local.lr or set local.clip_norm"
    )


def _is_codec(value: object) -> bool:
    parts = ("code", "size", "compress", "encode", "decode", "accumulator")
    return all(hasattr(value, part) for part in parts)
