"""The folder of a local Ray: one in which its sockets fit."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from ray._common.utils import get_default_system_temp_dir

from fedsmu_ray.errors import ExecutionError

log = logging.getLogger(__name__)

FALLBACK = Path("/tmp")
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of a path, by the operating system
LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"


def session_folder() -> str:
    """The folder in which a local Ray keeps its sessions, in $RAY_TMPDIR, $TMPDIR or /tmp.

    A folder that cannot be used is replaced by /tmp with a warning. Raises ExecutionError if that
    cannot be used either.
    """
    preferred = Path(get_default_system_temp_dir()).absolute()
    problem = _problem(preferred)
    if problem is None:
        return str(preferred / "ray")
    if preferred == FALLBACK or (_problem(FALLBACK) is not None):
        raise ExecutionError(
            f"{preferred}: Ray cannot keep its session there, since {problem}; set TMPDIR to a "
            "folder with a short path in which you can write"
        )
    log.warning("%s: %s; Ray keeps its session in %s", preferred, problem, FALLBACK)
    return str(FALLBACK / "ray")


def _problem(folder: Path) -> str | None:
    """Why a folder cannot hold a session of Ray; None if it can."""
    socket = len(os.fsencode(folder / LONGEST_SOCKET))
    if socket > MAX_SOCKET_BYTES:
        allowed = len(os.fsencode(folder)) - (socket - MAX_SOCKET_BYTES)
        return f"its path is too long for Ray's sockets (at most {allowed} bytes)"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"nothing can be written there ({error.strerror})"
