"""MLflow's server on the head, for the runs of all jobs: on the loopback interface, by password.

Jobs write into its database themselves, which needs no password; people read through an SSH tunnel.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from fedsmu_ray import environment
from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.files.folders import write
from fedsmu_ray.tracking.mlflow_store import open_store
from fedsmu_ray.tracking.mlflow_ui import PORT, START_WAIT_S, answers

USER = "admin"


def start(port: int = PORT) -> str:
    """Start the server unless it is running; returns a line that says where it is.

    Raises ExecutionError if it does not start.
    """
    folder = _folder()
    where = f"MLflow: http://127.0.0.1:{port} on this host, user {USER}, password in "
    where += str(_password_file(folder))
    if answers(port):
        return where
    database = _database(folder)
    open_store(database, "fedsmu")  # before a job and the server could create it at once
    config = _auth_config(folder, _secret(_password_file(folder)))
    session_key = _secret(folder / "mlflow-session-key")
    with (folder / "mlflow-server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
            + ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
            + ["--backend-store-uri", database]
            + ["--artifacts-destination", str(folder / "mlartifacts")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment.of_mlflow_server(config, session_key),
            start_new_session=True,
        )
    write(folder / "mlflow-server.pid", str(server.pid))
    deadline = time.monotonic() + START_WAIT_S
    while not answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise ExecutionError(
                f"MLflow's server did not start; see {folder / 'mlflow-server.log'}"
            )
        time.sleep(0.2)
    return where


def password() -> str:
    """The password of the server that `start` has started."""
    return _secret(_password_file(_folder()))


def stop() -> None:
    """End the server that `start` has started, if it runs."""
    folder = _folder()
    file = folder / "mlflow-server.pid"
    if not file.exists():
        return
    pid = file.read_text(encoding="utf-8")
    with contextlib.suppress(OSError):  # it has ended
        # After a reboot, the number may be that of another process.
        if _database(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            os.killpg(int(pid), signal.SIGTERM)
    file.unlink()


def _folder() -> Path:
    folder = environment.cluster_results()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def _password_file(folder: Path) -> Path:
    return folder / "mlflow-password"


def _secret(file: Path) -> str:
    """A random word that is kept in a private file."""
    if not file.exists():
        write(file, f"{secrets.token_urlsafe(16)}\n")
    return file.read_text(encoding="utf-8").strip()


def _auth_config(folder: Path, password: str) -> Path:
    file = folder / "mlflow-auth.ini"
    write(
        file,
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'mlflow-auth.db'}\n"
        f"admin_username = {USER}\nadmin_password = {password}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
    )
    return file
