"""Addresses at which no cluster can be joined are refused within seconds, with their origin."""

import socket
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fedsmu_ray.errors import ExecutionError
from fedsmu_ray.executors import ray_address
from fedsmu_ray.executors.ray_address import cluster_address


@contextmanager
def web_server():
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def listening(answer):
    """A server that accepts connections: it answers with `answer`, or never if that is None."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve():
            with closing(server.accept()[0]) as connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve if answer is not None else lambda: None)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    "address, words",
    [
        ("127.0.0.1:1", "nothing listens there"),
        ("[::1]:1", "there|assign"),  # refused, or a host without IPv6
        ("no-such-host.invalid:6379", "there is no host of this name"),
        ("ray://127.0.0.1:10001", "Ray Client is not supported"),
        ("http://127.0.0.1:8265", "not host:port"),
        ("localhost", "not host:port"),
        ("localhost:", "not host:port"),
        (":6379", "not host:port"),
        ("localhost:66666", "out of range"),
        ("localhost:x", "not host:port|could not be cast"),
    ],
)
@pytest.mark.parametrize("source", ["--address ", "RAY_ADDRESS="])
def test_what_is_wrong_is_told_with_the_origin(monkeypatch, source, address, words):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = address if source == "--address " else None
    if given is None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ExecutionError, match=words) as error:
        cluster_address(given)
    assert str(error.value).startswith(f"{source}{address}: ")
    assert "leave both away to start Ray on this machine" in str(error.value)


@pytest.mark.parametrize(
    "server, words",
    [
        (web_server(), "what listens there is not Ray"),
        (listening(b"SSH-2.0-x\r\n"), "what listens there is not Ray"),
        (listening(b""), "what listens there is not Ray"),
        (listening(None), "no answer within 0.2 s"),
    ],
    ids=["http", "ssh", "closing", "silent"],
)
def test_a_port_of_something_else(monkeypatch, server, words):
    monkeypatch.setattr(ray_address, "PROBE_TIMEOUT_S", 0.2 if "0.2" in words else 30.0)
    with server as port, pytest.raises(ExecutionError, match=words):
        cluster_address(f"127.0.0.1:{port}")


def test_a_local_ray_is_wanted(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cluster_address("local") is None


def test_a_running_cluster_is_found(ray_cluster):
    import ray

    address = ray.get_runtime_context().gcs_address
    assert cluster_address(address) == address
    assert cluster_address("auto")
