"""Two machines with a network each and the same files: network namespaces joined by a cable."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ADDRESSES = "10.78.0.1", "10.78.0.2"
HEAD = f"{ADDRESSES[0]}:6379"
START_TIMEOUT_S = 120


@contextmanager
def two_machines():
    """Yields their names; skips the test where namespaces cannot be had."""
    names = [f"fedsmu-{os.getpid()}-{i}" for i in range(2)]
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    with ExitStack() as made:
        try:
            for name in names:
                _ip(f"netns add {name}")
                made.callback(_ip, f"netns del {name}")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be had here: {error.stderr.decode()}")
        _ip(f"-n {names[0]} link add eth0 type veth peer name eth0 netns {names[1]}")
        for name, address in zip(names, ADDRESSES):
            _ip(f"-n {name} addr add {address}/24 dev eth0")
            for device in ("lo", "eth0"):
                _ip(f"-n {name} link set {device} up")
            _ip(f"-n {name} route add default via 10.78.0.254")  # or Ray takes 127.0.0.1
        yield names


def _ip(command):
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@contextmanager
def ray_folder():
    """The variables of a process whose home and Ray are in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_A")}
        path = os.pathsep.join(p for p in sys.path if p)
        yield {**own, "HOME": folder, "RAY_TMPDIR": folder, "PYTHONPATH": path}


@contextmanager
def ray_node(machine, options, variables, hidden=None):
    """A node of a cluster, until the end of the block. hidden: a folder that it does not see."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options.split()]
    hide = f"mount -t tmpfs none {hidden} && " if hidden else ""
    # Its processes end with the first one of their own namespace.
    own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "sh", "-c"]
    log = Path(variables["HOME"]) / f"{machine}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", machine, *own, f'cd / && {hide}exec "$@"', "-", *ray],
            env=variables,
            stdout=output,
            stderr=output,
        )
        try:
            until = time.monotonic() + START_TIMEOUT_S
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            process.kill()
            process.wait()


def python_on(machine, arguments, variables, before=(), folder="/"):
    """A finished Python process on a machine. before: a command that runs it."""
    return subprocess.run(
        ["ip", "netns", "exec", machine, *before, sys.executable, *arguments],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
