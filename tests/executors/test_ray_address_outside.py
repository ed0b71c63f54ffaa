"""A machine that is no node of a cluster, or has not its token, is told so at once."""

from pathlib import Path

import pytest

from tests.helpers.two_machines import (
    ADDRESSES,
    HEAD,
    python_on,
    ray_folder,
    ray_node,
    two_machines,
)

pytestmark = pytest.mark.slow

TOKEN = 64 * "a"
JOIN = (
    "import sys\n"
    "from fedsmu_ray.errors import ExecutionError\n"
    "from fedsmu_ray.executors.ray_address import cluster_address\n"
    "try: print('joined', cluster_address(sys.argv[1]))\n"
    "except ExecutionError as error: print(error)\n"
)


@pytest.fixture(scope="module")
def machines():
    with two_machines() as names:
        yield names


@pytest.fixture(scope="module")
def head(machines):
    """A cluster with a token; yields the variables of a process that has it, too."""
    with ray_folder() as variables:
        file = Path(variables["HOME"]) / ".ray/auth_token"
        file.parent.mkdir()
        file.write_text(TOKEN)
        options = "--head --port=6379 --num-cpus=1 --include-dashboard=false"
        with ray_node(machines[0], options, {**variables, "RAY_AUTH_MODE": "token"}):
            yield variables


def join(machine, variables, before=()):
    """What a process on a machine says that joins the cluster."""
    done = python_on(machine, ["-c", JOIN, HEAD], variables, before)
    assert not done.stderr, done.stderr  # nothing of Ray's beside the message
    return done.stdout


def test_a_machine_that_is_no_node(machines, head):
    said = join(machines[1], head)
    assert said.startswith(f"--address {HEAD}: this machine (")
    assert f"is no node of that cluster, whose nodes are {ADDRESSES[0]} (head);" in said
    assert f"`ray start --address={HEAD}`" in said
    assert join(machines[0], head) == f"joined {HEAD}\n"


def test_a_node_in_a_container(machines, head, tmp_path):
    """Where the folder of Ray is another one, as outside of the container of the node."""
    hide = f'mount --bind {tmp_path} {head["HOME"]} && exec "$@"'
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    said = join(machines[0], {**head, **token}, ["unshare", "--mount", "sh", "-c", hide, "-"])
    assert f"its socket {head['HOME']}" in said and "it is in a container" in said


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
