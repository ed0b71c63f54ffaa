"""Hosts of a cluster on this machine, made by hosts.sh, and a laptop that has this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).parent / "hosts.sh"
PROGRAMS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync", "git", "pgrep")


def missing() -> str:
    """What this machine lacks for hosts of its own; empty if it has all."""
    if os.geteuid() != 0:
        return "root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if lacking:
        return f"{', '.join(lacking)} (packages iproute2, openssh-server, rsync, procps, git)"
    tried = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"]
    done = subprocess.run(tried, capture_output=True, text=True)
    return f"namespaces ({done.stderr.strip()})" if done.returncode else ""


class Hosts:
    """The hosts `names`; the last one is the laptop. They end with `close`, or with this process.

    `address[name]` is a host's address in their network, which reaches nothing else.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.address = {name: f"10.77.0.{n}" for n, name in enumerate(names, 1)}
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        self._world = subprocess.Popen(
            [SCRIPT, "up", folder, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path, "PYTHON": sys.executable},
        )
        if self._world.stdout.readline() != "ready\n":
            self.close()
            raise RuntimeError(f"the hosts did not start: {SCRIPT} up {folder} {' '.join(names)}")

    def close(self) -> None:
        """End all hosts and every process on them."""
        self._world.kill()
        self._world.communicate()

    def start(self, name: str, command: str, **options) -> subprocess.Popen:
        """Start a command in a login shell of a host."""
        arguments = [SCRIPT, "on", self.folder, name, "bash", "-lc", command]
        return subprocess.Popen(arguments, text=True, **options)

    def on(self, name: str, command: str, *, timeout: float = 120, fails: bool = False) -> str:
        """Run a command in a login shell of a host; returns what it printed.

        Raises AssertionError with its output if it fails (or, with `fails`, if it does not).
        """
        shell = self.start(
            name,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = shell.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            shell.kill()
            raise AssertionError(f"{name}: {command}: longer than {timeout} s") from None
        assert (shell.returncode != 0) == fails, f"{name}: {command}: {output}"
        return output

    def copy_checkout(self, name: str) -> None:
        """Put what git would commit of this checkout into ~/fedsmu_ray of a host."""
        listed = ["git", "-C", CHECKOUT, "ls-files", "-co", "--exclude-standard", "-z"]
        files = subprocess.run(listed, capture_output=True, check=True).stdout
        tar = ["tar", "-C", CHECKOUT, "--ignore-failed-read", "--null", "-T", "-", "-c"]
        packed = subprocess.run(tar, input=files, capture_output=True, check=True).stdout
        # Not tar's --one-top-level, which drops the package's folder, as it has the same name.
        into = "mkdir -p fedsmu_ray && tar -x -C fedsmu_ray"
        unpack = [SCRIPT, "on", self.folder, name, "sh", "-c", into]
        subprocess.run(unpack, input=packed, check=True)

    def link(self, name: str, state: str) -> None:
        """Pull a host's network cable (`down`), or plug it in again (`up`)."""
        subprocess.run([SCRIPT, "link", self.folder, name, state], check=True)
