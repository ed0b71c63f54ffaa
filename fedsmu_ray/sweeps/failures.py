"""Why a trial failed: what its process reports, and what Tune keeps of one that is lost."""

from __future__ import annotations

import os
import re
import socket
import traceback
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import RayError
from ray.tune.experiment import Trial as TuneTrial

from fedsmu_ray.errors import (
    BrokenGPUError,
    ConfigError,
    DivergenceError,
    ExperimentError,
    LocalDivergenceError,
    LostError,
)
from fedsmu_ray.executors.ray_errors import place_in
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.secrets import cut_text

# While a trial is prepared, these may not happen to another process, perhaps on another node.
RETRIED = (BrokenGPUError, LostError, RayError)
_RAISED = re.compile(r"^[\w.]*?(\w+(?:Error|Exception|Interrupt|Exit|Warning)): ", re.MULTILINE)
_MADE = "raised in its creation task"  # Ray, of an actor whose class or setup has raised
_DIED = ("ActorDiedError", "actor died", "The actor is dead", " is unavailable: ")


@dataclass(frozen=True)
class TrialFailure:
    """Report of a trial that has raised; its process can run the next one."""

    error: str
    diverged: bool  # whether it would end alike if it were run again
    traceback: str = ""  # of an exception that nobody has foreseen, or of the user's code

    @staticmethod
    def of(error: Exception) -> TrialFailure:
        """The report about an exception that is being handled."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, (DivergenceError, LocalDivergenceError)):
            return TrialFailure(text, diverged=True)
        text += f" (on {socket.gethostname()}, process {os.getpid()})"
        foreseen = isinstance(error, ExperimentError)
        if isinstance(error, ConfigError) and error.__cause__:  # what the user's code has raised
            foreseen = False
        return TrialFailure(text, False, "" if foreseen else traceback.format_exc())


def cut_secrets(trial: TuneTrial) -> None:
    """Cut secrets out of what Tune has kept of an error.

    When memory runs out, Ray's message has the command lines of processes, with their overrides.
    """
    if trial.pickled_error_file:
        Path(trial.pickled_error_file).unlink(missing_ok=True)
    if trial.error_file:
        write(Path(trial.error_file), cut_text(_text(trial)))


def cause(trial: TuneTrial) -> str:
    """Why a trial failed, in one line: the last exception that Tune kept."""
    text = _text(trial).split("Failure # ")[-1]
    if _MADE not in text and any(word in text for word in _DIED):
        return f"the trial's process was lost{_how(text, _host(trial, text))}"
    raised = list(_RAISED.finditer(text))
    if not raised:
        return f"unknown cause; see {trial.error_file}"
    said = " ".join(text[raised[-1].start(1) :].split())
    if _MADE not in text:
        return said
    where = place_in(text)
    return f"its process could not be made{f' on {where}' * bool(where)}: {said}"


def _host(trial: TuneTrial, text: str) -> str:
    """Where the lost process was: by its last result, or by what Ray says; "" if neither tells."""
    found = re.search(r"^\s*ip: ([\d.:a-f]+)$", text, re.MULTILINE)
    result = trial.last_result or {}
    return str(result.get("hostname") or (found[1] if found else ""))


def _how(text: str, node: str) -> str:
    """Where a process was, and what Ray says of its end."""
    reason = r"The actor is dead because (.*?)(?:\. |\.?$)"
    found = re.search(reason, text, re.MULTILINE)
    said = [f"on {node}"] * bool(node) + ([found[1][:200]] if found else [])
    return f" ({': '.join(said)})" if said else ""


def _text(trial: TuneTrial) -> str:
    return Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
