"""The cluster that a file of `ray up` describes, through Ray's own commands."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from fedsmu_ray import environment
from fedsmu_ray.errors import ConfigError, ExecutionError

DASHBOARD_PORT = 8265  # Ray's; on the head's loopback interface
TUNNEL_WAIT_S = 30.0  # for an SSH tunnel to the head
_ESCAPES = re.compile(r"\x1b\[[\d;?]*[a-zA-Z]")  # colors and modes of a terminal
_LOGGED = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\s")  # a line of Ray's own log
SHOWN_LINES = 30  # of the output of a command that failed


class Cluster:
    """The cluster of a file. Its commands are those of `ray`, and can be typed as well."""

    def __init__(self, file: str) -> None:
        """Make a token if this machine has none.

        Raises ConfigError if there is no such file, or Ray's commands are not installed.
        """
        if not Path(file).is_file():
            raise ConfigError([f"{file}: no such file; name the cluster file of `ray up`"])
        if environment.ray_token_place() is None:
            print("~/.ray/auth_token: a new token, without which nobody can use a cluster")
            self._checked("get-auth-token", "--generate")
        environment.use_cluster_token("auto")
        try:
            import ray.job_submission  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                [f"Ray's cluster commands are missing ({error}); pip install 'ray[default]'"]
            ) from error
        self.file = file

    def is_up(self) -> bool:
        """Whether Ray runs on the head, as far as can be seen from here."""
        return self._ray("exec", self.file, "ray status").returncode == 0

    def bring_up(self) -> None:
        """Start the cluster, or update a running one without restarting Ray on it.

        Raises ConfigError if the file sends this folder along as the package, and it is not there.
        """
        mounts = yaml.safe_load(Path(self.file).read_text(encoding="utf-8")).get("file_mounts")
        if "." in (mounts or {}).values() and not Path("fedsmu_ray/__init__.py").is_file():
            raise ConfigError(
                [
                    f"{self.file}: file_mounts sends the folder you are in to the nodes as the "
                    "checkout of fedsmu_ray; write the full path of the checkout in place of '.'"
                ]
            )
        if self.is_up():
            print(f"joining the cluster of {self.file}; Ray is not restarted", flush=True)
            self._checked("up", "--yes", "--no-restart", self.file)
        else:
            print(f"starting the cluster of {self.file} (ray up)", flush=True)
            self._checked("up", "--yes", self.file)

    def on_head(self, command: str) -> str:
        """Run a command on the head; returns its last line. Raises ExecutionError if it fails."""
        output = _ESCAPES.sub("", self._checked("exec", self.file, command))
        lines = [line.strip() for line in output.splitlines() if not _LOGGED.match(line)]
        return ([""] + [line for line in lines if line])[-1]

    def fetch(self, source: str, target: Path) -> None:
        """Copy a folder of the head into a folder here, which is made."""
        target.mkdir(parents=True, exist_ok=True)
        self._checked("rsync-down", self.file, f"{source}/", f"{target}/")

    def take_down(self) -> None:
        """End MLflow's server, Ray on all nodes and, in a cloud, the nodes."""
        for command in ("mlflow --stop", "stop-workers"):
            self._ray("exec", self.file, f"python -m fedsmu_ray.cluster {command}")
        self._checked("down", "--yes", self.file)

    @contextlib.contextmanager
    def tunnel(self, port: int = DASHBOARD_PORT) -> Iterator[int]:
        """An SSH tunnel to a port of the head; yields the local port.

        Raises ExecutionError if the head cannot be reached within TUNNEL_WAIT_S.
        """
        local = _free_port()
        process = subprocess.Popen(
            _command("dashboard", self.file, "--port", str(local), "--remote-port", str(port)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the one who follows
        )
        try:
            self._wait_for(local, process)
            yield local
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()

    def _wait_for(self, port: int, tunnel: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + TUNNEL_WAIT_S
        while tunnel.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise ExecutionError(
            f"no SSH tunnel to the head of {self.file} within {TUNNEL_WAIT_S:g} s; "
            f"see what `ray exec {self.file} 'ray status'` says"
        )

    def _ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,  # the output of commands on the head is stdout
            text=True,
            errors="replace",
        )

    def _checked(self, *arguments: str) -> str:
        done = self._ray(*arguments)
        if done.returncode:
            last = "\n".join((done.stderr + done.stdout).splitlines()[-SHOWN_LINES:])
            raise ExecutionError(f"{last}\n`ray {shlex.join(arguments)}` failed (see above)")
        return done.stdout


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
