"""Storage behind a URI: what fsspec opens, and a real S3 server where one is installed."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.brake import wait_for

SERVER = Path(sys.executable).with_name("moto_server")
KINDS = ["local", "memory", "s3"]  # "memory" is that of this process only


class S3:
    """A `moto_server` process on a free port, with one bucket."""

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen(
            [SERVER, "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._has_bucket, "an S3 server that responds")

    def _has_bucket(self):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/bucket", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=10):
                return True
        except OSError:
            return False

    def uri(self, folder):
        options = f"region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{self.port}"
        return f"s3://bucket/{folder}?{options}"


@pytest.fixture(scope="session")
def s3():
    if not SERVER.exists():
        pytest.skip("needs an S3 server: pip install 'moto[s3,server]'")
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
    server = S3()
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(params=KINDS)
def storage(request, tmp_path):
    """The URI of a folder that is empty: on this disk, in memory, and on an S3 server."""
    if request.param == "local":
        return f"local://{tmp_path}/stored"
    if request.param == "memory":
        return f"memory://{tmp_path.name}/stored"
    return request.getfixturevalue("s3").uri(f"{tmp_path.name}/stored")
