"""A machine that is no node of a cluster, or has not its token, is told so at once.

Two network namespaces, joined by a cable, play the cluster's head and another machine.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HEAD, OUTSIDE = "10.78.0.1", "10.78.0.2"
JOIN = (
    "import sys\n"
    "from fedsmu_ray.errors import ExecutionError\n"
    "from fedsmu_ray.executors.ray_address import cluster_address\n"
    "try: print('joined', cluster_address(sys.argv[1]))\n"
    "except ExecutionError as error: print(error)\n"
)


def ip(command):
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@pytest.fixture(scope="module")
def machines():
    """The names of the namespaces of a head and of another machine."""
    names = [f"fedsmu-{os.getpid()}-{i}" for i in range(2)]
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    try:
        for name in names:
            ip(f"netns add {name}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be had here: {error.stderr.decode()}")
    try:
        ip(f"-n {names[0]} link add eth0 type veth peer name eth0 netns {names[1]}")
        for name, address in zip(names, (HEAD, OUTSIDE)):
            ip(f"-n {name} addr add {address}/24 dev eth0")
            for device in ("lo", "eth0"):
                ip(f"-n {name} link set {device} up")
            ip(f"-n {name} route add default via 10.78.0.254")  # or Ray takes 127.0.0.1
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture(scope="module")
def head(machines):
    """A cluster with a token; yields the variables of a process that has it, too."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        token = Path(folder) / ".ray/auth_token"
        token.parent.mkdir()
        token.write_text(64 * "a")
        shared = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
        shared |= {"HOME": folder, "RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)}
        ray = "ray start --head --block --port=6379 --num-cpus=1 --include-dashboard=false"
        # Its processes end with the first one of their own namespace.
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m"]
        own += ["ray.scripts.scripts", *ray.split()[1:]]
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", machines[0], *own],
                env={**shared, "RAY_AUTH_MODE": "token"},
                stdout=log,
                stderr=log,
            )
            try:
                for _ in range(600):
                    if "Ray runtime started" in (Path(folder) / "log").read_text():
                        break
                    assert process.poll() is None, (Path(folder) / "log").read_text()
                    time.sleep(0.2)
                yield shared
            finally:
                process.kill()
                process.wait()


def join(machine, variables):
    """What a process on a machine says that joins the cluster."""
    done = subprocess.run(
        ["ip", "netns", "exec", machine, sys.executable, "-c", JOIN, f"{HEAD}:6379"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.stderr, done.stderr  # nothing of Ray's beside the message
    return done.stdout


def test_a_machine_that_is_no_node(machines, head):
    said = join(machines[1], head)
    assert said.startswith(f"--address {HEAD}:6379: this machine (")
    assert f"is no node of that cluster, whose nodes are {HEAD} (head);" in said
    assert f"`ray start --address={HEAD}:6379`" in said
    assert join(machines[0], head) == f"joined {HEAD}:6379\n"


def test_a_node_in_a_container(machines, head, tmp_path):
    """Where the folder of Ray is another one, as outside of the container of the node."""
    command = ["unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path} {head["HOME"]} && "$@"']
    python = [sys.executable, "-c", JOIN, f"{HEAD}:6379"]
    done = subprocess.run(
        ["ip", "netns", "exec", machines[0], *command, "-", *python],
        env={**head, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": 64 * "a"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "its socket /tmp/r-" in done.stdout and "it is in a container" in done.stdout, done


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"HOME": "/nowhere"}, "the cluster wants a token, and there is none here; copy ~/.ray"),
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token, and RAY_AUTH_MODE is set to something"),
        ({"RAY_AUTH_TOKEN": "b"}, "refuses the token in RAY_AUTH_TOKEN, which is not its own;"),
        ({"HOME": "/nowhere", "RAY_AUTH_MODE": "token"}, "and there is no token in RAY_AUTH_TOKEN"),
    ],
)
@pytest.mark.parametrize("on_a_node", [True, False])
def test_a_token_that_is_missing_or_wrong(on_a_node, changed, words, machines, head):
    assert words in join(machines[not on_a_node], {**head, **changed})
