"""A real MLflow server, which a test can kill and start again."""

import os
import socket
import subprocess
import sys
import urllib.request

from tests.helpers.brake import wait_for


class Server:
    """An `mlflow server` process on a free port."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--backend-store-uri",
                f"sqlite:///{self.folder}/mlflow.db",
                "--artifacts-destination",
                str(self.folder / "artifacts"),
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            ],
            cwd=self.folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._responds, "a server that responds")
        return self

    def _responds(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                return True
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()
