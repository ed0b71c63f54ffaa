"""The address of the Ray cluster to join: found, and tried before Ray waits for it for minutes."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray._private import services
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

from fedsmu_ray import environment
from fedsmu_ray.errors import ExecutionError

PROBE_TIMEOUT_S = 5.0
NODES_TIMEOUT_S = 8.0
SHOWN_NODES = 5  # of a cluster, in a message
# HTTP/2 (RFC 9113), which Ray's gRPC speaks: a client sends its preface and a frame of settings,
# and the server answers with its own frame of settings.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
HTTP2_SETTINGS = 4  # type of a frame, its byte 3
CURE = (
    "give --address (or RAY_ADDRESS) the host:port of a cluster's head (`ray start --head` prints "
    "it), or `auto` on one of its nodes; leave both away to start Ray on this machine"
)
TOKEN_CURE = (
    "copy ~/.ray/auth_token of the cluster's head (of the machine that ran `ray up`) to the same "
    "place here"
)


def cluster_address(address: str | None) -> str | None:
    """The host:port of the cluster to join; None: Ray is to be started on this machine.

    address: as in `executors.base.Backend.open`. Raises ExecutionError, which names where the
    address comes from, within seconds if no cluster can be there, if it refuses this process, or if
    this machine is none of its nodes.
    """
    given = environment.ray_address(address)
    if given is None:
        return None
    where = origin(address)
    try:
        found = _running_here() if given == "auto" else given
        where += f" ({found})" if found != given else ""
        _probe(*_host_and_port(found))
    except (OSError, ValueError, LookupError) as error:
        raise ExecutionError(f"{where}: {error}; {CURE}") from None
    if environment.use_cluster_token(address):
        Config.initialize("")  # Ray has been imported and has read the variables
    try:
        _check_is_node(found)
    except ValueError as error:
        raise ExecutionError(f"{where}: {error}") from None
    return found


def origin(address: str | None) -> str:
    """What names the address of the cluster, for a message."""
    given = environment.ray_address(address)
    return f"--address {given}" if address else f"RAY_ADDRESS={given}"


def _running_here() -> str:
    noted, running = services.find_bootstrap_address(None), services.find_gcs_addresses()
    if noted and (noted in running or not running):  # its processes may be in another container
        return str(noted)
    if not running:
        raise LookupError("no Ray cluster runs on this machine")
    return str(next(iter(running)))


def _host_and_port(address: str) -> tuple[str, int]:
    if address.startswith("ray://"):
        raise ValueError(
            "Ray Client is not supported, since an experiment shares memory with a node; start the "
            "command on a node of the cluster"
        )
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.scheme or not parts.hostname or not parts.port:
        raise ValueError("not host:port")
    return parts.hostname, parts.port


def _probe(host: str, port: int) -> None:
    """Raise ValueError if no server of HTTP/2 answers there, which Ray's GCS server is."""
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S) as connection:
            if environment.ray_uses_tls():
                return
            connection.sendall(HTTP2_PREFACE)
            header = connection.makefile("rb").read(9)
    except socket.gaierror:
        raise ValueError("there is no host of this name") from None
    except TimeoutError:
        raise ValueError(f"no answer within {PROBE_TIMEOUT_S:g} s") from None
    except ConnectionRefusedError:
        raise ValueError("nothing listens there") from None
    except ConnectionError:  # reset by a server that cannot read the preface
        header = b""
    if len(header) < 9 or header[3] != HTTP2_SETTINGS:
        raise ValueError("what listens there is not Ray")


def _check_is_node(address: str) -> None:
    """Raise ValueError if the cluster refuses this process, or has no node on this machine.

    Ray itself looks for that node for minutes.
    """
    nodes = _nodes(address)
    here = [node for node in nodes if _is_address_of_this_machine(node.node_manager_address)]
    if not here:
        names = [node.node_manager_address + " (head)" * node.is_head_node for node in nodes]
        more = f" and {len(names) - SHOWN_NODES} more" if len(names) > SHOWN_NODES else ""
        raise ValueError(
            f"this machine ({socket.gethostname()}) is no node of that cluster, whose nodes are "
            f"{', '.join(names[:SHOWN_NODES])}{more}; start the command on one of them, for "
            "example by `ray exec` or `ray job submit`, or make this machine a node with "
            f"`ray start --address={address}`"
        )
    sockets = [node.raylet_socket_name for node in here]
    if not any(Path(name).exists() for name in sockets):
        raise ValueError(
            f"the cluster's node on this machine cannot be used, since its socket {sockets[0]} is "
            "not visible: it is in a container, or another user's; start the command there"
        )


def _nodes(address: str) -> list[Any]:
    """The nodes of a cluster that are alive (GcsNodeInfo), the head first.

    Raises ValueError if the cluster refuses this process.
    """
    sent = environment.ray_token_place()
    if sent is None and environment.ray_sends_token():  # Ray would abort the process
        raise ValueError(
            "RAY_AUTH_MODE=token is set and there is no token in RAY_AUTH_TOKEN, in the file "
            f"RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token; {TOKEN_CURE}, or unset RAY_AUTH_MODE if "
            "the cluster has none"
        )
    try:
        with _silent_if_it_fails():
            nodes = GcsClient(address=address).get_all_node_info(timeout=NODES_TIMEOUT_S)
    except RayError as error:
        if "authentication" not in str(error).lower():
            raise ValueError(f"the cluster does not say which nodes it has ({error})") from None
        if environment.ray_sends_token():
            problem = f"the cluster refuses the token in {sent}, which is not its own"
        else:
            why = "RAY_AUTH_MODE is set to something else" if sent else "there is none here"
            problem = f"the cluster wants a token, and {why}"
        raise ValueError(f"{problem}; {TOKEN_CURE}, and set RAY_AUTH_MODE=token") from None
    alive = [node for node in nodes.values() if node.state == node.ALIVE]
    return sorted(alive, key=lambda node: (not node.is_head_node, node.node_manager_address))


@contextlib.contextmanager
def _silent_if_it_fails() -> Iterator[None]:
    """Discard what is written to stderr in this block if it raises, else pass it on.

    Ray's C++ code writes what it then raises.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        written.seek(0)
        os.write(2, written.read())


def _is_address_of_this_machine(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((address, 0))
        except OSError:
            return False
        return True
