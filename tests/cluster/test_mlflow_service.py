"""MLflow's server as it runs on the head of a cluster."""

import base64
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from fedsmu_ray.cluster import mlflow_service

pytestmark = pytest.mark.slow


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(port):
    """Start it as a command does, which ends and leaves it running."""
    code = f"from fedsmu_ray.cluster import mlflow_service; print(mlflow_service.start({port}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout


def status(port, password=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get")
    if password:
        word = base64.b64encode(f"{mlflow_service.USER}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    request.full_url += "?experiment_id=0"
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_one_server_lets_in_who_knows_the_password_and_can_be_ended(port, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_RESULTS", str(tmp_path / "results"))
    try:
        first = start(port)
        pid = (tmp_path / "results/mlflow-server.pid").read_text()
        assert start(port) == first
        assert (tmp_path / "results/mlflow-server.pid").read_text() == pid
        assert f"127.0.0.1:{port}" in first
        file = tmp_path / "results/mlflow-password"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert status(port) == 401
        assert status(port, "guessed") == 401
        assert status(port, mlflow_service.password()) == 200
    finally:
        mlflow_service.stop()
    with pytest.raises(OSError):
        while True:
            status(port)


def test_a_process_that_has_got_the_number_of_the_server_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSMU_RESULTS", str(tmp_path))
    file = tmp_path / "mlflow-server.pid"
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as other:
        file.write_text(str(other.pid))
        mlflow_service.stop()
        assert other.poll() is None and not file.exists()
        other.kill()
