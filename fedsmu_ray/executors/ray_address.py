"""The address of the Ray cluster to join: found, and tried before Ray waits for it for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from ray._private import services

from fedsmu_ray import environment
from fedsmu_ray.errors import ExecutionError

PROBE_TIMEOUT_S = 5.0
# HTTP/2 (RFC 9113), which Ray's gRPC speaks: a client sends its preface and a frame of settings,
# and the server answers with its own frame of settings.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
HTTP2_SETTINGS = 4  # type of a frame, its byte 3
CURE = (
    "give --address (or RAY_ADDRESS) the host:port of a cluster's head (`ray start --head` prints "
    "it), or `auto` on one of its nodes; leave both away to start Ray on this machine"
)


def cluster_address(address: str | None) -> str | None:
    """The host:port of the cluster to join; None: Ray is to be started on this machine.

    address: as in `executors.base.Backend.open`. Raises ExecutionError, which names where the
    address comes from, within seconds if no cluster can be there.
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
