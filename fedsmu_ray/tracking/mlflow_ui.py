"""MLflow's UI for a store: its server on this machine, and the link to the latest view."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError, ExecutionError
from fedsmu_ray.tracking.base import absolute_uri, database_file
from fedsmu_ray.tracking.mlflow_store import open_store
from fedsmu_ray.tracking.mlflow_view import SWEEP_VIEW, TAG, link, made_at

PORT = 5000
START_WAIT_S = 90.0
SHOWN_LINES = 20  # of the log of a server that did not start


def latest_view(uri: str, experiment: str) -> str:
    """The link, without the server, to the latest sweep's view; without one, to the runs.

    Raises ConfigError if there is no such database, or the store cannot be opened.
    """
    path = database_file(uri)
    if path and not path.exists():
        raise ConfigError(
            [f"{path}: no such database; run a sweep first, or give its tracking.uri"]
        )
    client, id, _ = open_store(uri, experiment)
    tags = client.get_experiment(id).tags
    views = {key.removeprefix(TAG): tags[key] for key in tags if key.startswith(TAG + SWEEP_VIEW)}
    return link(id, max(views, key=lambda key: made_at(views[key]), default=None))


@contextlib.contextmanager
def server(uri: str, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server with the UI for a database; yields its process and its URL, and ends it.

    port: default: PORT if that is free, else another one. Raises ExecutionError if it does not
    start.
    """
    port = port or _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
            + ["--workers", "1", "--backend-store-uri", absolute_uri(uri)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment.of_mlflow_server(),
            start_new_session=True,  # Ctrl-C is for the command, which ends the server
        )
        try:
            deadline = time.monotonic() + START_WAIT_S
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]
                    raise ExecutionError("\n".join([*said, "MLflow's server did not start"]))
                time.sleep(0.2)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def answers(port: int) -> bool:
    """Whether an MLflow server answers at a port of this machine."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    for port in (PORT, 0):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            free: int = listener.getsockname()[1]
            return free
    raise ExecutionError("no port is free")
